"""The rows of a training in the backbone's pieces, and how prompts do on those held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor
from torch.nn.functional import cross_entropy

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.errors import UserError
from preface.labelling.free_text import FreeText, Wanted, answer_losses, write_each
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller, Prediction, predictions_of
from preface.labelling.multi_label import MultiLabel
from preface.prompts import Prompts
from preface.tasks import Example, Split, render
from preface.tasks.example import worded
from preface.tasks.metric import majority_of, score_of
from preface.tasks.task import CUE, WHOLE
from preface.terminal.progress import warn, warn_skipped
from preface.tuning.processes import Processes
from preface.tuning.recipe import Recipe


@dataclass(frozen=True)
class Rows:
    """Two splits, tokenised."""

    wanted: Wanted
    examples: list[tuple[str, str]]
    """Text, under the wording, and answer of each training row."""
    training: list[list[int]]
    development: list[list[int]]
    held_out: list[Example]
    """The development rows as they are."""
    cut: dict[str, int]
    """How many inputs were cut, by split."""
    cue: str = CUE

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        wanted: Wanted,
        training: Split,
        development: Split,
        max_input_tokens: int,
        cue: str = CUE,
        wording: str = WHOLE,
    ) -> Rows:
        """Tokenise two splits; says how many inputs are cut, and which rows were left out."""
        ids: list[list[list[int]]] = []
        cut: dict[str, int] = {}
        question = backbone.question(wording, cue)
        for split in (training, development):
            pieces, are_cut = render(backbone.tokenize, split.examples, max_input_tokens, question)
            ids.append(pieces)
            cut[split.split] = sum(are_cut)
            if any(are_cut):
                count = f"{sum(are_cut):,} of {len(pieces):,} {split.split} inputs"
                warn(f"{count} were cut to {max_input_tokens} tokens")
        # both splits may be drawn from the same file
        warn_skipped(training.task, list(dict.fromkeys([*training.skipped, *development.skipped])))
        examples = worded(training.examples, wording)
        return cls(wanted, examples, ids[0], ids[1], development.examples, cut, cue)

    @property
    def labels(self) -> LabelWords:
        """The label words; there are none where answers are free text, or several labels."""
        assert isinstance(self.wanted, LabelWords)
        return self.wanted

    @cached_property
    def gold(self) -> Tensor:
        """What is right for each development row, `[N]` or `[N, C]`, as the labels have it."""
        assert not isinstance(self.wanted, FreeText)
        return self.wanted.gold(str(example.label) for example in self.held_out)

    @property
    def lengths(self) -> list[int]:
        """Pieces of each training input."""
        return [len(ids) for ids in self.training]

    @property
    def answers(self) -> list[str]:
        """Of each training row."""
        return [answer for _, answer in self.examples]

    @property
    def held_out_answers(self) -> list[str]:
        """Of each development row, the one that would be trained on."""
        return [str(example.label) for example in self.held_out]

    @property
    def groups(self) -> list[str]:
        """What each development row belongs to, where rows belong together; else empty."""
        return [example.group for example in self.held_out if example.group]

    @property
    def of_task(self) -> list[int] | None:
        """The number of each training row's task, where each task has a prompt of its own; None: there is one."""
        return None

    def weights(self, recipe: Recipe) -> list[float] | None:
        """Of each training row in its batch's loss; None: all alike.

        Balanced: rows / (labels × rows of its label), as scikit-learn has it.
        """
        recipe.check_answers(isinstance(self.wanted, FreeText))
        if recipe.class_weights == "none":
            return None
        if isinstance(self.wanted, MultiLabel):
            raise UserError("class-weights balanced: a text may have several labels, or none; leave it out")
        counts = Counter(label for _, label in self.examples)
        return [len(self.examples) / (len(counts) * counts[label]) for _, label in self.examples]

    def steps_an_epoch(self, recipe: Recipe) -> int:
        return len(batching.epoch(self.lengths, recipe.seeds[0], 0, recipe.batch_size, recipe.token_budget))

    def score(self, metric_name: str, said: Sequence[str]) -> float:
        """The metric of what was said of the development rows."""
        return score_of(metric_name, self.held_out, said)

    def judged(self, metric_name: str, log_probabilities: Tensor) -> Judged:
        """What log-probabilities of the labels of the development rows amount to, `[N, C]` or `[N, C, 2]`."""
        assert not isinstance(self.wanted, FreeText)
        predictions = predictions_of(log_probabilities, self.wanted)
        score = self.score(metric_name, [prediction.label for prediction in predictions])
        loss = cross_entropy(log_probabilities.flatten(0, -2), self.gold.flatten())
        return Judged(score, float(loss), predictions)

    def held(self, places: Sequence[int]) -> Rows:
        """The same with some of the development rows alone."""
        return replace(
            self,
            development=[self.development[place] for place in places],
            held_out=[self.held_out[place] for place in places],
        )

    def trained_on(self, places: Sequence[int]) -> Rows:
        """The same with some of the training rows alone."""
        return replace(
            self,
            examples=[self.examples[place] for place in places],
            training=[self.training[place] for place in places],
        )

    def majority(self, metric_name: str) -> float:
        """What always giving the commonest answer would score on the development rows."""
        return majority_of(metric_name, self.held_out)


@dataclass(frozen=True)
class Judged:
    """How one prompt does on the development rows."""

    score: float
    """By the task's metric."""
    loss: float
    """The mean of −log of the probability of the right label among the labels; of several, of the right one of yes and
    no for each; in free text, of an answer's pieces."""
    predictions: list[Prediction]


class Development:
    """The rows held out, and what prompts say of them."""

    def __init__(
        self, backbone: Backbone, rows: Rows, metric_name: str, keep: bool, processes: Processes | None = None
    ) -> None:
        """`keep`: read each input once for all prompts and steps; `processes`: those that share the work."""
        self.backbone, self.rows, self.metric = backbone, rows, metric_name
        self.processes = processes or Processes()
        written = isinstance(rows.wanted, FreeText)
        own = rows.development if written else self.processes.evaluated(rows.development)
        self.inputs = self.processes.read_alike(Inputs(backbone, own, keep=keep))

    def judge(self, prompts: Prompts, of_each: Sequence[Sequence[int]] | None = None) -> list[Judged]:
        """How each of P prompts does on all rows; or on some of them, `of_each`."""
        wanted = self.rows.wanted
        if isinstance(wanted, FreeText):
            mine = self.processes.evaluated(range(prompts.size))
            held = None if of_each is None else [of_each[number] for number in mine]
            said = self._judge_texts(prompts.select(mine), wanted, held) if mine else []
            return self.processes.gathered(said)
        labeller = Labeller(self.backbone, prompts, wanted)
        by_row = labeller.label_each(self.inputs).transpose(0, 1)  # [own, P, C]
        judged = []
        for number, scores in enumerate(self.processes.whole(by_row, len(self.rows.held_out)).unbind(1)):  # [N, C]
            rows = self.rows if of_each is None else self.rows.held(of_each[number])
            own = scores if of_each is None else scores[list(of_each[number])]
            judged.append(rows.judged(self.metric, own))
        return judged

    def _judge_texts(self, prompts: Prompts, text: FreeText, of_each: Sequence[Sequence[int]] | None) -> list[Judged]:
        """How each of some prompts does at writing answers, side by side; or one by one, about rows of its own."""
        asked = [(prompts, self.rows, self.inputs)]
        if of_each is not None:
            held = [self.rows.held(places) for places in of_each]
            asked = [
                (prompts.select([number]), rows, Inputs(self.backbone, rows.development))
                for number, rows in enumerate(held)
            ]
        judged = []
        for some, rows, inputs in asked:
            labeller = Labeller(self.backbone, some, text)
            losses = answer_losses(labeller, text, inputs, rows.held_out_answers).tolist()
            for loss, said in zip(losses, write_each(labeller, text, inputs), strict=True):
                judged.append(Judged(rows.score(self.metric, said), loss, [Prediction(row, None) for row in said]))
        return judged

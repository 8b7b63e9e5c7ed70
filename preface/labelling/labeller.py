"""From a frozen model and prompts to labels: the one way for development scores, evaluations, predictions, serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from preface.backbones.base import Backbone, Context
from preface.backbones.batching import by_length
from preface.backbones.contexts import Inputs
from preface.backbones.tree import Trees
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.multi_label import Labels, MultiLabel, question_scores
from preface.prompts import LABELS, Prompts

TOKEN_BUDGET = 2_048
"""Tokens that are read in one batch on a CPU, padding, input embeddings and prefix included: what its caches hold, and
little padding."""
GPU_TOKEN_BUDGET = 16_384
"""The same on a GPU, which needs many rows to be busy."""
WRITING_BUDGET = 8_192
"""The same on a CPU where answers are written: the whole model is gone through for each piece of a batch's answers, so
that few rows take almost as long as many (docs/performance.md)."""
ANSWER_BYTES = 2**28
"""Of one layer's attention and states while a batch answers: with hundreds of labels, fewer rows go together."""

OnBatch = Callable[[int], None]
"""Hears how many rows were done."""


@dataclass(frozen=True)
class Prediction:
    """What one prompt says of one row."""

    label: str
    """The label word; of several labels all, as one text; in free generation whatever was written."""
    probabilities: dict[str, float] | None
    """Of the label words; None in free generation. Where a text may have several, they do not sum to 1."""


class Words(Protocol):
    """The pieces of label words, as `LabelWords` has them."""

    @property
    def pieces(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def lead_in(self) -> tuple[int, ...]: ...


class Labeller:
    """P prompts, each with label words of its own, on the backbone's device.

    Rows of one batch may have different prompts, and so different tasks.
    """

    def __init__(self, backbone: Backbone, prompts: Prompts, label_words: Words | Sequence[Words]) -> None:
        """`label_words`: of all prompts, or of each; without words there is only `generate`."""
        self.backbone = backbone
        self.prompts = prompts.to(backbone.device, backbone.dtype)
        each = list(label_words) if isinstance(label_words, Sequence) else [label_words] * prompts.size
        if prompts.labels is not None:
            if f"{LABELS}.mask" in prompts.tensors:
                raise UserError(
                    "prompts with label vectors answer beside such of the same labels alone; ask them apart"
                )
            each = [words.as_vectors() if isinstance(words, LabelWords) else words for words in each]
        distinct = list(dict.fromkeys(each))
        self.multi_label = any(isinstance(words, MultiLabel) for words in distinct)
        if self.multi_label and not all(isinstance(words, MultiLabel) for words in distinct):
            raise UserError("prompts with several labels a text answer beside such alone; ask them apart")
        some = any(words.pieces for words in distinct)
        parts = Trees.in_parts([(words.pieces, words.lead_in) for words in distinct]) if some else []
        self.trees = [trees.to(backbone.device) for trees in parts]
        words = sum(trees.words for trees in self.trees)
        self.scored = (words // 2, 2) if self.multi_label else (words,)
        """What is scored of each text: C label words; or, of each of C labels, yes and no."""
        self.lead_in = distinct[0].lead_in
        """What free generation begins after: the first prompt's."""
        self.which = torch.tensor([distinct.index(words) for words in each])
        """The tree of each prompt, `[P]`."""

    @torch.inference_mode()
    def label(self, inputs: Inputs, rows: Sequence[int] | None = None, on_batch: OnBatch = lambda rows: None) -> Tensor:
        """Log-probabilities `[N, C]` of the label words of N texts, in their order, on the CPU.

        Of a text's several labels, `[N, C, 2]`, as `question_scores` has them.
        `rows` is the prompt of each text (default: the first); where it has fewer words than C, the others are −inf.
        """
        output = torch.empty(len(inputs), *self.scored)
        for places, prompts, own in self._batches_by_row(inputs, rows):
            which = self.which[:1].expand(len(places)) if own is None else self.which[own]
            output[places] = self._scores(inputs, places, which, prompts, own)
            on_batch(len(places))
        return output

    @torch.inference_mode()
    def label_each(self, inputs: Inputs, on_batch: OnBatch = lambda rows: None) -> Tensor:
        """Log-probabilities `[P, N, C]`, or `[P, N, C, 2]`: every text under every prompt, all in the same batches.

        The prompts' rows lie side by side, so that no prompt is copied for its rows.
        """
        size, count = self.prompts.size, len(inputs)
        every = inputs.repeated(size)
        output = torch.empty(size * count, *self.scored)
        for places in self._side_by_side(inputs, TOKEN_BUDGET):
            which = self.which.repeat_interleave(len(places) // size)
            output[places] = self._scores(every, places, which, self.prompts, None)
            on_batch(len(places))
        return output.unflatten(0, (size, count))

    def _scores(
        self, inputs: Inputs, places: Sequence[int], which: Tensor, prompts: Prompts, rows: Tensor | None
    ) -> Tensor:
        rows = None if rows is None else self.backbone.send(rows)
        return self.score(self._read(inputs, places, prompts, rows), which, prompts, rows)

    def _read(self, inputs: Inputs, places: Sequence[int], prompts: Prompts, rows: Tensor | None) -> Context:
        """What is read at some places; without `rows` they are the same texts for each prompt, and where no prompt
        changes reading they are had once, and not copied for each."""
        once = rows is None and prompts.leaves_reading
        return inputs.read(places[: len(places) // prompts.size] if once else places, prompts, rows)

    def score(self, context: Context, which: Tensor, prompts: Prompts, rows: Tensor | None) -> Tensor:
        """Log-probabilities `[B, C]`, or `[B, C, 2]`, of the label words after what was read, on the CPU; `which` `[B]`
        is the tree of each row, the others are as for `Backbone.log_probabilities`."""
        if self.multi_label:
            return question_scores(self.backbone, context, self.trees, which, prompts, rows).cpu()
        scores = [self.backbone.log_probabilities(context, trees, which, prompts, rows) for trees in self.trees]
        return torch.cat(scores, dim=1).cpu()

    @torch.inference_mode()
    def generate_each(
        self, inputs: Inputs, max_new_tokens: int = 16, on_batch: OnBatch = lambda rows: None
    ) -> list[list[str]]:
        """What the model writes freely about each of N texts under each of P prompts, `[P][N]`: the likeliest pieces.

        Raises UserError for prompts with label vectors, which write nothing.
        """
        if self.prompts.labels is not None:
            raise UserError("scoring generate: a prompt with label vectors writes no text; give scoring rank")
        size, count = self.prompts.size, len(inputs)
        every, output = inputs.repeated(size), [""] * (size * count)
        for places in self._side_by_side(inputs, WRITING_BUDGET):
            context = self._read(every, places, self.prompts, None)
            rows = torch.arange(size).repeat_interleave(len(places) // size)
            tokens = self.backbone.generate(
                context,
                self.prompts,
                self.backbone.send(rows),
                lead_in=self.lead_in,
                max_new_tokens=max_new_tokens,
                do_sample=False,  # whatever the checkpoint would rather do
            )
            texts = self.backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for place, text in zip(places, texts, strict=True):
                output[place] = text.strip()
            on_batch(len(places))
        return [output[start : start + count] for start in range(0, size * count, count)]

    def _side_by_side(self, inputs: Inputs, budget: int) -> Iterator[list[int]]:
        """Batches of texts under all prompts, first those of the first: text i stands at i, i + N, … for each."""
        size, count = self.prompts.size, len(inputs)
        for batch in self.batches(inputs, size, budget):
            yield [prompt * count + place for prompt in range(size) for place in batch]

    def _batches_by_row(
        self, inputs: Inputs, rows: Sequence[int] | None
    ) -> Iterator[tuple[list[int], Prompts, Tensor | None]]:
        """Batches of texts, the prompts, and which of them each row has, `[B]`; None: there is one for all."""
        one = rows is None or self.prompts.size == 1
        prompts = self.prompts.select([0]) if one else self.prompts
        for places in self.batches(inputs, 1, TOKEN_BUDGET):
            yield places, prompts, None if rows is None or one else torch.tensor([rows[place] for place in places])

    def batches(self, inputs: Inputs, prompts: int, budget: int) -> Iterator[list[int]]:
        """Texts of like length, as many as fit the budgets where each is there once for each of so many prompts;
        `budget` is of a CPU."""
        lengths = [length + self.prompts.reading_length for length in inputs.lengths]
        budget = budget if self.backbone.device.type == "cpu" else GPU_TOKEN_BUDGET
        most = max(1, self.most_rows(max(lengths, default=0)) // prompts)
        yield from by_length(lengths, max(1, budget // prompts), most)

    def most_rows(self, longest: int) -> int:
        """Rows that may answer together about texts of at most so many tokens (`ANSWER_BYTES`)."""
        answer = max((trees.inputs.shape[1] for trees in self.trees), default=len(self.lead_in))
        places = answer + self.prompts.answering_length
        keys = places + max([*(self.prompts.length(site) for site in self.prompts.sites), 0])
        heads = max(site.heads for site in self.backbone.sites.values())
        a_row = 4 * places * (heads * (keys + longest) + 4 * self.backbone.width)
        return max(1, ANSWER_BYTES // a_row)


def predictions_of(scores: Tensor, label_words: Labels) -> list[Prediction]:
    """The likeliest word and all probabilities, of log-probabilities `[N, C]`; of several labels, of `[N, C, 2]`, those
    whose yes is likelier than no."""
    words = label_words.words
    if isinstance(label_words, MultiLabel):
        yes = scores[:, : len(words)].softmax(-1)[..., 0].tolist()
        every = [dict(zip(words, row, strict=True)) for row in yes]
        return [Prediction(label_words.said(probabilities), probabilities) for probabilities in every]
    rows = scores[:, : len(words)].softmax(-1).tolist()
    return [_prediction(dict(zip(words, row, strict=True))) for row in rows]


def _prediction(probabilities: dict[str, float]) -> Prediction:
    return Prediction(max(probabilities, key=lambda word: probabilities[word]), probabilities)

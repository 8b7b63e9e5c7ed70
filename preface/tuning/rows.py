"""The rows of a training in the backbone's pieces, and how prompts do on those held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts
from preface.tasks import Split, groups_of, render
from preface.tasks.metric import majority, metric
from preface.tasks.task import CUE
from preface.terminal.progress import warn, warn_skipped
from preface.tuning.recipe import Recipe


@dataclass(frozen=True)
class Rows:
    """Two splits, tokenised."""

    labels: LabelWords
    examples: list[tuple[str, str]]
    """Text and label word of each training row."""
    training: list[list[int]]
    development: list[list[int]]
    groups: list[str]
    """What each development row belongs to (`Example.group`); empty: each to itself."""
    gold: Tensor
    """The place of each development row's label among the label words, `[N]`."""
    cut: dict[str, int]
    """How many inputs were cut, by split."""

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        labels: LabelWords,
        training: Split,
        development: Split,
        max_input_tokens: int,
        cue: str = CUE,
    ) -> Rows:
        """Tokenise two splits; says how many inputs are cut, and which rows were left out."""
        places = {word: place for place, word in enumerate(labels.words)}
        ids: list[list[list[int]]] = []
        cut: dict[str, int] = {}
        question = backbone.question("{text}", cue)
        for split in (training, development):
            pieces, are_cut = render(backbone.tokenize, split.examples, max_input_tokens, question)
            ids.append(pieces)
            cut[split.split] = sum(are_cut)
            if any(are_cut):
                count = f"{sum(are_cut):,} of {len(pieces):,} {split.split} inputs"
                warn(f"{count} were cut to {max_input_tokens} tokens")
        # both splits may be drawn from the same file
        warn_skipped(training.task, list(dict.fromkeys([*training.skipped, *development.skipped])))
        gold = torch.tensor([places[str(example.label)] for example in development.examples])
        examples = [(example.text, str(example.label)) for example in training.examples]
        return cls(labels, examples, ids[0], ids[1], groups_of(development.examples), gold, cut)

    @property
    def lengths(self) -> list[int]:
        """Pieces of each training input."""
        return [len(ids) for ids in self.training]

    @property
    def targets(self) -> list[list[int]]:
        """What a prompt is trained to say for each training row."""
        return self.labels.targets(label for _, label in self.examples)

    def weights(self, recipe: Recipe) -> list[float] | None:
        """Of each training row in its batch's loss; None: all alike.

        Balanced: rows / (labels × rows of its label), as scikit-learn has it.
        """
        if recipe.class_weights == "none":
            return None
        counts = Counter(label for _, label in self.examples)
        return [len(self.examples) / (len(counts) * counts[label]) for _, label in self.examples]

    def steps_an_epoch(self, recipe: Recipe) -> int:
        return len(batching.epoch(self.lengths, recipe.seeds[0], 0, recipe.batch_size, recipe.token_budget))

    def score_and_loss(self, metric_name: str, log_probabilities: Tensor) -> tuple[float, float]:
        """The metric on the development rows, and the mean −log of the right label's probability among the labels, of
        `[N, C]`."""
        predicted = [self.labels.words[label] for label in log_probabilities.argmax(-1).tolist()]
        value = metric(metric_name, self._gold_words, predicted, self.groups)
        return value, float(cross_entropy(log_probabilities, self.gold))

    def majority(self, metric_name: str) -> float:
        """What always naming the commonest label would score on the development rows."""
        return majority(metric_name, self._gold_words, self.groups)

    @property
    def _gold_words(self) -> list[str]:
        return [self.labels.words[label] for label in self.gold.tolist()]


class Development:
    """The rows held out, and what prompts say of them."""

    def __init__(self, backbone: Backbone, rows: Rows, keep: bool) -> None:
        """`keep`: read each input once for all prompts and steps."""
        self.backbone, self.labels = backbone, rows.labels
        self.inputs = Inputs(backbone, rows.development, keep=keep)

    def log_probabilities(self, prompts: Prompts) -> Tensor:
        """Of the label words for each row under each prompt, `[P, N, C]`."""
        return Labeller(self.backbone, prompts, self.labels).label_each(self.inputs)

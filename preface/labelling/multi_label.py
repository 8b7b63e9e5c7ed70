"""Several labels a text: each label is a question of yes or no, and all of them are one answer about a text read once.

What is answered is `LABEL: yes` or `LABEL: no`; all lie in one tree (`preface.backbones.tree`), where each is scored as
if it stood alone. The two of a label have all but their end in common, so the first piece in which they differ decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preface.backbones.base import Backbone, Context
from preface.backbones.tree import Trees
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.prompts import Prompts
from preface.tasks.label_sets import as_set, as_text
from preface.tasks.task import CUE

YES, NO = "yes", "no"


@dataclass(frozen=True)
class MultiLabel:
    """What stands in the place of label words where a text may have several: C questions."""

    words: tuple[str, ...]
    """The label words."""
    pieces: tuple[tuple[int, ...], ...]
    """Of `LABEL: yes` and `LABEL: no`, label after label, to the first piece in which the two differ."""
    lead_in: tuple[int, ...]
    """The pieces that every answer begins after."""

    @classmethod
    def of(cls, backbone: Backbone, words: Sequence[str], cue: str = CUE) -> MultiLabel:
        """Questions about label words that follow a task's cue.

        Raises UserError as `LabelWords.of` does, and for a word so long that its answer is cut off.
        """
        known = LabelWords.of(backbone, words, cue)
        answers = backbone.answer_pieces([f"{word}: {answer}" for word in words for answer in (YES, NO)], cue)
        pieces: list[tuple[int, ...]] = []
        for word, yes, no in zip(words, answers[::2], answers[1::2], strict=True):
            if yes == no:
                raise UserError(f"label word {word!r} is too long to be asked about; give another with --label-words")
            end = 1 + next(place for place, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
            pieces += [tuple(yes[:end]), tuple(no[:end])]
        return cls(known.words, tuple(pieces), known.lead_in)

    def targets(self, labels: Iterable[str]) -> list[list[int]]:
        """Of rows, each with its labels as one text: which answer to each question is right, 0 for yes and 1 for no."""
        each = map(as_set, labels)
        return [[int(word not in right) for word in self.words] for right in each]

    def gold(self, labels: Iterable[str]) -> Tensor:
        """The same as a tensor, `[N, C]`."""
        return torch.tensor(self.targets(labels))

    def called(self, names: Mapping[str, str]) -> MultiLabel:
        """The same questions under other names, `{word: name}`."""
        return replace(self, words=tuple(names[word] for word in self.words))

    def said(self, probabilities: Mapping[str, float]) -> str:
        """The labels that are likelier than not, as one text."""
        return as_text([word for word, probability in probabilities.items() if probability > 0.5])

    def trees(self) -> list[Trees]:
        """All answers, in parts."""
        return Trees.in_parts([(self.pieces, self.lead_in)])


Labels = LabelWords | MultiLabel
"""What is asked where there are labels: for one of them, or for any number."""


def labels_of(backbone: Backbone, words: Sequence[str], cue: str, multi_label: bool) -> Labels:
    """What is asked about label words that follow a cue. Raises UserError as `LabelWords.of` does."""
    return (MultiLabel if multi_label else LabelWords).of(backbone, words, cue)


def question_scores(
    backbone: Backbone,
    context: Context,
    trees: Sequence[Trees],
    which: Tensor,
    prompts: Prompts | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Of each question how likely yes and no are, up to what both have in common, `[B, C, 2]`; differentiable.

    Their softmax over the last dimension are probabilities. Arguments are those of `Backbone.log_probabilities`, where
    `trees` are of `MultiLabel.trees`.
    """
    parts = [backbone.log_probabilities(context, part, which, prompts, rows, totals=False) for part in trees]
    return torch.cat(parts, dim=1).unflatten(1, (-1, 2))

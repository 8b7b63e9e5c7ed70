"""Answers in free text: what a prompt is trained to write, what it writes, and how far it is from what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.batching import answers_of
from preface.backbones.contexts import Inputs
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import TOKEN_BUDGET, Labeller, OnBatch
from preface.labelling.multi_label import Labels, MultiLabel, labels_of
from preface.prompts import Prompts
from preface.tasks import Task


@dataclass(frozen=True)
class FreeText:
    """What stands in the place of label words where answers are written."""

    backbone: Backbone
    cue: str
    most: int
    """Pieces that are generated, at most."""
    words: tuple[str, ...] = ()
    pieces: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def lead_in(self) -> tuple[int, ...]:
        """The pieces that every answer begins after."""
        return self.backbone.lead_in(self.cue)

    def targets(self, answers: Sequence[str]) -> list[list[int]]:
        """The pieces that a prompt is trained to write for each answer, each with what ends it."""
        return self.backbone.answer_pieces(answers, self.cue, ended=True)

    def word_of(self, written: str) -> str:
        """What counts of a written text: its first line, for a backbone that has not learned to end its answer."""
        return written.strip().split("\n")[0].strip()


Wanted = Labels | FreeText
"""What a prompt is asked for: one of some words, any number of them, or free text."""


def wanted(backbone: Backbone, task: Task) -> Wanted:
    """What prompts of a task are asked for. Raises UserError as `LabelWords.of` does."""
    if task.free_text:
        return FreeText(backbone, task.cue, task.answer_pieces)
    return labels_of(backbone, task.label_words, task.cue, task.multi_label)


def targets_of(wanted: Wanted, prompts: Prompts, answers: Sequence[str]) -> list[list[int]]:
    """What prompts are trained to say for each answer: its pieces, the number of its label vector, or, of several
    labels, yes or no to each (`MultiLabel.targets`)."""
    if prompts.labels is not None and isinstance(wanted, MultiLabel):
        raise UserError("prompts with label vectors choose one label, and texts of the task may have several")
    if prompts.labels is not None and isinstance(wanted, LabelWords):
        return wanted.as_vectors().targets(answers)
    return wanted.targets(answers)


def write_each(
    labeller: Labeller, text: FreeText, inputs: Inputs, on_batch: OnBatch = lambda rows: None
) -> list[list[str]]:
    """What each of P prompts writes about each of N texts, `[P][N]`."""
    written = labeller.generate_each(inputs, text.most, on_batch)
    return [[text.word_of(one) for one in each] for each in written]


@torch.inference_mode()
def answer_losses(labeller: Labeller, text: FreeText, inputs: Inputs, answers: Sequence[str]) -> Tensor:
    """The mean of −log of the probability of an answer's pieces, over all N texts, for each of P prompts, `[P]`."""
    targets, backbone = text.targets(answers), labeller.backbone
    losses = torch.zeros(labeller.prompts.size)
    for index in range(len(losses)):
        prompt = labeller.prompts.select([index])
        for places in labeller.batches(inputs, 1, TOKEN_BUDGET):
            read, said = answers_of([targets[place] for place in places], text.lead_in)
            losses[index] += backbone.losses(inputs.read(places, prompt), read, said, prompt).sum().cpu()
    return losses / sum(map(len, targets))

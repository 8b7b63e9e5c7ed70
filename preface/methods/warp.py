"""WARP: input embeddings, and a vector for each label in the place of its word (Hambardzumyan et al. 2021, "WARP:
Word-level Adversarial ReProgramming", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods.base import Counts, PromptModule
from preface.methods.init import Initializer
from preface.methods.prompt_tuning import PromptTuning
from preface.prompts import LABELS, Prompts

SHOWN = 2
"""Labels that `counts` reckons with: how many there are, a task says."""


class Warp(PromptTuning):
    """n input embeddings and C label vectors, which begin as the model's own for the first pieces of the words.

    The label is the one whose vector is most like what the model says where its answer begins. The paper trains a
    masked language model; here it is the place of the answer's first piece.
    """

    name: ClassVar[str] = "warp"
    summary: ClassVar[str] = "input embeddings and label vectors"
    rates: ClassVar[tuple[float, ...]] = (3e-3, 1e-2, 3e-2)

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        if not initializer.label_words:
            raise UserError("warp: has a vector for each label, and the task's answers are free text")
        embeddings = super().build(backbone, initializer, seeds)
        pieces = [ids[0] for ids in backbone.answer_pieces(initializer.label_words, initializer.cue)]
        vectors = backbone.head.weight[torch.tensor(pieces, device=backbone.device)].float()  # [C, d]
        return Warped(embeddings, vectors.expand(len(seeds), -1, -1).clone()).to(backbone.device)

    def counts(self, backbone: Backbone) -> Counts:
        size = (self.length + SHOWN) * backbone.width
        return Counts(trained=size, stored=size)


class Warped(PromptModule):
    """P prompts of input embeddings and label vectors `[P, C, d]`."""

    def __init__(self, embeddings: PromptModule, vectors: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.vectors = nn.Parameter(vectors)

    def forward(self) -> Prompts:
        return Prompts({**self.embeddings().tensors, LABELS: self.vectors})

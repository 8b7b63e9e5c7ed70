"""Decomposed prompts: a prompt as the product of two thin matrices (Xiao et al. 2023, "Decomposed Prompt Tuning via
Low-Rank Reparameterization", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.methods.base import RANK, Counts
from preface.methods.prompt_tuning import EmbeddingPrompts, PromptTuning


class DecomposedPrompts(PromptTuning):
    """n input embeddings of a low rank, which is at most n."""

    name: ClassVar[str] = "decomposed-prompts"
    summary: ClassVar[str] = "input embeddings of a low rank"
    rates: ClassVar[tuple[float, ...]] = (0.01, 0.03, 0.1)

    rank: int = Field(10, ge=1, description=RANK)

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        return Products(start, min(self.rank, self.length))

    def counts(self, backbone: Backbone) -> Counts:
        rank = min(self.rank, self.length)
        return Counts(trained=rank * (self.length + backbone.width), stored=self.length * backbone.width)


class Products(EmbeddingPrompts):
    """`left` `[P, n, r]` times `right` `[P, r, d]`, which begin as the best of rank r for the initialisation."""

    def __init__(self, start: Tensor, rank: int) -> None:
        super().__init__()
        u, sizes, vt = torch.linalg.svd(start, full_matrices=False)  # [P, n, k], [P, k], [P, k, d]
        u, sizes, vt = u[..., :rank], sizes[:, :rank], vt[:, :rank]
        # where the initialisation repeats words it lacks directions; without a length nothing would train them
        lengths = torch.maximum(sizes.sqrt(), sizes[:, :1].sqrt() / 100)
        self.left = nn.Parameter(u * (sizes / lengths)[:, None])
        self.right = nn.Parameter(vt * lengths[..., None])

    def embeddings(self) -> Tensor:
        return self.left @ self.right

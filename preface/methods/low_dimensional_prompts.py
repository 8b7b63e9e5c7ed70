"""Prompts trained in a few dimensions, mapped up by a random matrix that stays as it is (Wu et al. 2025, "ULPT: Prompt
Tuning with Ultra-Low-Dimensional Optimization")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.methods.base import RANK, Counts
from preface.methods.init import hash_seed
from preface.methods.prompt_tuning import EmbeddingPrompts, PromptTuning


class LowDimensionalPrompts(PromptTuning):
    """n points of r dimensions, and a scale and a shift of the d that they are mapped up to."""

    name: ClassVar[str] = "low-dimensional-prompts"
    summary: ClassVar[str] = "points, a scale and a shift"
    rates: ClassVar[tuple[float, ...]] = (0.01, 0.03, 0.1)

    rank: int = Field(2, ge=1, description=RANK)

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        return MappedUp(start, self.rank, seeds)

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * backbone.width
        return Counts(trained=self.length * self.rank + 2 * backbone.width, stored=size)


class MappedUp(EmbeddingPrompts):
    """`points` `[P, n, r]` times random directions `[P, r, d]`, scaled and shifted, which begin as near to the
    initialisation as they can be."""

    def __init__(self, start: Tensor, rank: int, seeds: Sequence[int]) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(hash_seed(seed, "directions")) for seed in seeds]
        drawn = [torch.randn(rank, start.shape[2], generator=generator) for generator in generators]
        self.directions: Tensor
        self.register_buffer("directions", torch.stack(drawn))
        shift = start.mean(1)
        self.points = nn.Parameter((start - shift[:, None]) @ torch.linalg.pinv(self.directions))
        self.scale = nn.Parameter(torch.ones_like(shift))
        self.shift = nn.Parameter(shift)

    def embeddings(self) -> Tensor:
        return self.points @ self.directions * self.scale[:, None] + self.shift[:, None]

"""Residual prompts: embeddings and what a small network adds to them (Razdaibiedina et al. 2023, "Residual Prompt
Tuning: Improving Prompt Tuning with Residual Reparameterization", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from preface.backbones.base import Backbone
from preface.methods.base import WIDTH, Counts
from preface.methods.init import hash_seed, uniform
from preface.methods.prompt_tuning import EmbeddingPrompts, PromptTuning


class ResidualPrompts(PromptTuning):
    """n input embeddings, each with the output of a network that all share; the network is dropped on export."""

    name: ClassVar[str] = "residual-prompts"
    summary: ClassVar[str] = "input embeddings and a network"
    rates: ClassVar[tuple[float, ...]] = (3e-3, 1e-2, 3e-2)

    width: int = Field(400, ge=1, description=WIDTH)

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        return Residuals(start, self.width, seeds)

    def counts(self, backbone: Backbone) -> Counts:
        d, size = backbone.width, self.length * backbone.width
        return Counts(trained=size + (d + 1) * self.width + (self.width + 1) * d + 2 * d, stored=size)


class Residuals(EmbeddingPrompts):
    """`E + norm(relu(E down) up)`; the norm's gain begins small, so that training starts at the initialisation."""

    SMALL = 0.01

    def __init__(self, start: Tensor, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        size, _, d = start.shape
        self.table = nn.Parameter(start)
        self.down = nn.Parameter(drawn(seeds, "down", (d, width)))
        self.down_bias = nn.Parameter(torch.zeros(size, 1, width))
        self.up = nn.Parameter(drawn(seeds, "up", (width, d)))
        self.up_bias = nn.Parameter(torch.zeros(size, 1, d))
        self.gain = nn.Parameter(torch.full((size, 1, d), self.SMALL))
        self.shift = nn.Parameter(torch.zeros(size, 1, d))

    def embeddings(self) -> Tensor:
        hidden = torch.relu(self.table @ self.down + self.down_bias)  # [P, n, width]
        added = layer_norm(hidden @ self.up + self.up_bias, self.table.shape[-1:])  # [P, n, d]
        return self.table + added * self.gain + self.shift


def drawn(seeds: Sequence[int], name: str, shape: tuple[int, int]) -> Tensor:
    """A matrix for each seed, `[P, in, out]`, uniform in ± 1 / √in."""
    return torch.stack([uniform(shape, hash_seed(seed, name)) * 2 * shape[0] ** -0.5 for seed in seeds])

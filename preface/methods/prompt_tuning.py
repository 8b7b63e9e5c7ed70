"""Prompt tuning: n trained input embeddings before the tokens (Lester et al. 2021, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.methods.base import INIT, Counts, Method, PromptModule
from preface.methods.init import Initializer
from preface.prompts import Prompts


class PromptTuning(Method):
    """n input embeddings."""

    name: ClassVar[str] = "prompt-tuning"
    summary: ClassVar[str] = "input embeddings"
    rates: ClassVar[tuple[float, ...]] = (0.03, 0.1, 0.3)

    init: str = Field("labels", description=INIT)
    """Lester et al. found class labels best and random worst."""

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        start = [initializer.embeddings(backbone, self.length, seed) for seed in seeds]
        return EmbeddingPrompts(torch.stack(start).to(backbone.device))

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * backbone.width
        return Counts(trained=size, stored=size)


class EmbeddingPrompts(PromptModule):
    """P prompts, `[P, n, d_model]`."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(start)

    def forward(self) -> Prompts:
        return Prompts({"embeddings": self.embeddings})

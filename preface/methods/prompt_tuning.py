"""Prompt tuning: n trained input embeddings before the tokens (Lester et al. 2021, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from preface.backbones.t5 import Backbone, Shape
from preface.methods.base import INIT, Bank, Counts, Method
from preface.methods.init import Initializer
from preface.prompts import Injection


class PromptTuning(Method):
    """n input embeddings."""

    name: ClassVar[str] = "prompt-tuning"
    summary: ClassVar[str] = "input embeddings"
    rates: ClassVar[tuple[float, ...]] = (0.03, 0.1, 0.3)

    init: str = Field("labels", description=INIT)
    """Lester et al. found class labels best and random worst."""

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> Bank:
        start = [initializer.embeddings(backbone, self.length, seed) for seed in seeds]
        return PromptBank(torch.stack(start).to(backbone.device))

    def counts(self, shape: Shape) -> Counts:
        size = self.length * shape.d_model
        return Counts(trained=size, stored=size)


class PromptBank(Bank):
    """P prompts, `[P, n, d_model]`."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(start)

    def injection(self) -> Injection:
        return Injection(embeddings=self.embeddings)

"""Prompt tuning: n trained input embeddings before the tokens, or after them (Lester et al. 2021, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods.base import INIT, Counts, Method, PromptModule
from preface.methods.init import Initializer
from preface.prompts import Prompts

CARRIERS = {"before": "embeddings", "after": "after"}
"""By the place."""


class PromptTuning(Method):
    """n input embeddings."""

    name: ClassVar[str] = "prompt-tuning"
    summary: ClassVar[str] = "input embeddings"
    rates: ClassVar[tuple[float, ...]] = (0.03, 0.1, 0.3)

    init: str = Field("labels", description=INIT)
    """Lester et al. found class labels best and random worst."""
    place: Literal["before", "after"] = Field(
        "before", description="Where the embeddings stand: before the text, or after it (decoder-only models)."
    )
    """`after`: between the text and its answer, so that reading is left as it is, and each text is read once."""

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        if CARRIERS[self.place] not in backbone.carriers:
            raise UserError(f"place after: {backbone.name} reads its text apart from the answer; give before")
        start = [initializer.embeddings(backbone, self.length, seed) for seed in seeds]
        return EmbeddingPrompts(torch.stack(start).to(backbone.device), CARRIERS[self.place])

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * backbone.width
        return Counts(trained=size, stored=size)


class EmbeddingPrompts(PromptModule):
    """P prompts, `[P, n, d_model]`, under the name of their carrier."""

    def __init__(self, start: Tensor, carrier: str = "embeddings") -> None:
        super().__init__()
        self.carrier = carrier
        self.embeddings = nn.Parameter(start)

    def forward(self) -> Prompts:
        return Prompts({self.carrier: self.embeddings})

"""Prompt tuning: n trained input embeddings before the tokens, or after them (Lester et al. 2021, section 2)."""

from __future__ import annotations

from abc import abstractmethod
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
        start = torch.stack([initializer.embeddings(backbone, self.length, seed) for seed in seeds])  # [P, n, d]
        module = self.module(start, backbone, seeds)
        module.carrier = CARRIERS[self.place]
        return module.to(backbone.device)

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        """What makes P prompts, beginning at `start` `[P, n, d]`."""
        return DirectPrompts(start)

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * backbone.width
        return Counts(trained=size, stored=size)


class EmbeddingPrompts(PromptModule):
    """P prompts of input embeddings, under the name of their carrier."""

    carrier: str = "embeddings"

    @abstractmethod
    def embeddings(self) -> Tensor:
        """`[P, n, d]`."""

    def forward(self) -> Prompts:
        return Prompts({self.carrier: self.embeddings()})


class DirectPrompts(EmbeddingPrompts):
    """The embeddings themselves are trained."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(start)

    def embeddings(self) -> Tensor:
        return self.table

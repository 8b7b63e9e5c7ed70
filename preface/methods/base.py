"""What every method is: a configuration, and an ordinary module that makes P prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from preface.backbones.base import Backbone
from preface.methods.init import NAMES, Initializer
from preface.options import complaining, divided
from preface.prompts import Prompts
from preface.records.card import MethodRecord

# what fields of the same name are described by, in whichever methods they are
INIT = f"{', '.join(NAMES)}. Default: the method's own."
RANK = "Rank of decomposed, dimensions of low-dimensional prompts. Default: the method's own."
WIDTH = "Width of the network that p-tuning or residual prompts are made with. Default: the method's own."


@dataclass(frozen=True)
class Counts:
    """Parameters of one prompt."""

    trained: int
    """Numbers that the optimizer changes."""
    stored: int
    """Numbers in the exported prompt."""


class PromptModule(nn.Module, ABC):
    """P prompts of one method; every parameter is stacked, `[P, ...]`, and in float32."""

    @abstractmethod
    def forward(self) -> Prompts:
        """The P prompts, differentiable in the module's parameters."""

    @property
    def leaves_reading(self) -> bool:
        """True where what a model reads in a text is the same under every prompt."""
        with torch.no_grad():
            return self().leaves_reading  # type: ignore[no-any-return]


class Method(BaseModel, ABC):
    """The configuration of a method."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    """As on the command line and in tables."""
    summary: ClassVar[str]
    rates: ClassVar[tuple[float, ...]]
    """AdamW learning rates worth searching."""

    length: int = Field(20, ge=1, le=2000, description="Virtual tokens.")
    init: str = Field(description=INIT)

    def __init__(self, **fields: Any) -> None:
        """Raises UserError for an option that there is not, or whose value cannot be."""
        divided(fields, type(self))
        with complaining(self.name):
            super().__init__(**fields)

    @property
    def default_rates(self) -> tuple[float, ...]:
        """The learning rates that are searched, as it is configured, where the user names none."""
        return self.rates

    @property
    def record(self) -> MethodRecord:
        """As it is written into runs and prompts."""
        return MethodRecord(name=self.name, config=self.model_dump(mode="json"))

    @abstractmethod
    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        """A module of `len(seeds)` prompts, each initialised by its own seed."""

    @abstractmethod
    def counts(self, backbone: Backbone) -> Counts:
        """Parameters of one prompt on a backbone."""

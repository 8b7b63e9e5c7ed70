"""What every method is: a frozen configuration that builds a bank of P prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from preface.backbones.t5 import Backbone, Shape
from preface.methods.init import Initializer
from preface.prompts import Injection

INIT = "random, vocabulary, labels, activations, text:WORDS or prompt:FOLDER. Default: the method's own."


@dataclass(frozen=True)
class Counts:
    """Parameters of one prompt."""

    trained: int
    """Numbers that the optimizer changes."""
    stored: int
    """Numbers in the exported prompt."""


class Bank(nn.Module, ABC):
    """P prompts of one method and shape; every parameter is stacked, `[P, ...]`, and in float32."""

    @abstractmethod
    def injection(self) -> Injection:
        """What the P prompts put into the backbone, differentiable in the bank's parameters."""

    @property
    def size(self) -> int:
        """P."""
        return len(next(self.parameters()))

    @property
    def leaves_encoder(self) -> bool:
        """True where what the encoder says of an input is the same under every prompt."""
        with torch.no_grad():
            return self.injection().leaves_encoder


class Method(BaseModel, ABC):
    """The configuration of a method."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    """As on the command line and in tables."""
    summary: ClassVar[str]
    rates: ClassVar[tuple[float, ...]]
    """AdamW learning rates worth searching, used where the user names none."""

    length: int = Field(20, ge=1, le=2000, description="Virtual tokens.")
    init: str = Field(description=INIT)

    @abstractmethod
    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> Bank:
        """A bank of `len(seeds)` prompts, each initialised by its own seed."""

    @abstractmethod
    def counts(self, shape: Shape) -> Counts:
        """Parameters of one prompt on a backbone of that shape."""

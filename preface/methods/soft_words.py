"""Soft words: input embeddings, and what is added to their states before each later layer (Qin & Eisner 2021, "Learning
How to Ask: Querying LMs with Mixtures of Soft Prompts", sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods.base import Counts, PromptModule
from preface.methods.init import Initializer
from preface.methods.prompt_tuning import CARRIERS, PromptTuning
from preface.prompts import Prompts


class SoftWords(PromptTuning):
    """n input embeddings, and a perturbation of each before every layer but the first, which begins at zero.

    L layers have L − 1 perturbations: before the first it would be added to the embedding itself. The paper perturbs
    what the last layer gives as well; here nothing is added there. It keeps perturbations small by stopping early
    or by regularisation (`patience`, `weight_decay`). Its mixtures of prompts (section 2.4) are `preface ensemble
    --combine weighted`, whose weights are fitted once the prompts are trained.
    """

    name: ClassVar[str] = "soft-words"
    summary: ClassVar[str] = "input embeddings, changed in every layer"
    rates: ClassVar[tuple[float, ...]] = (0.01, 0.03, 0.1)

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        embeddings = super().build(backbone, initializer, seeds)
        start = started(backbone, initializer, self.length)  # [L - 1, n, d]
        added = start.expand(len(seeds), -1, -1, -1).clone()
        return Perturbed(embeddings, f"{CARRIERS[self.place]}.added", added).to(backbone.device)

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * (backbone.width + (backbone.layers - 1) * backbone.hidden_width)
        return Counts(trained=size, stored=size)


class Perturbed(PromptModule):
    """P prompts of input embeddings, and what is added to their states, `[P, L - 1, n, d]`."""

    def __init__(self, embeddings: PromptModule, name: str, added: Tensor) -> None:
        """`name`: of the tensor that is added."""
        super().__init__()
        self.embeddings = embeddings
        self.name = name
        self.added = nn.Parameter(added)

    def forward(self) -> Prompts:
        return Prompts({**self.embeddings().tensors, self.name: self.added})


def started(backbone: Backbone, initializer: Initializer, length: int) -> Tensor:
    """What is added at first, `[L - 1, n, d]`: zero, or what a saved prompt adds. Raises UserError."""
    zero = torch.zeros(backbone.layers - 1, length, backbone.hidden_width)
    if initializer.kind != "prompt":
        return zero
    saved = next((tensor for name, tensor in initializer.saved().tensors.items() if name.endswith(".added")), None)
    if saved is None:
        return zero
    if saved.shape[1:] != zero.shape:
        raise UserError(
            f"init prompt:{initializer.argument}: adds before {saved.shape[1]} layers, not {len(zero)}; give a prompt "
            "of this backbone"
        )
    return saved[0].float()

"""P-tuning: input embeddings made by a recurrent network, words between them (Liu et al. 2021, "GPT Understands, Too",
section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.methods.base import INIT, WIDTH, Counts
from preface.methods.init import text_ids
from preface.methods.prompt_tuning import EmbeddingPrompts, PromptTuning
from preface.methods.residual_prompts import drawn

VIRTUAL = "*"
"""Stands for a virtual token in a pattern."""


class PTuning(PromptTuning):
    """n embeddings, read by an LSTM or an MLP whose output is the prompt; the network is dropped on export."""

    name: ClassVar[str] = "p-tuning"
    summary: ClassVar[str] = "embeddings through a network"
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    init: str = Field("vocabulary", description=INIT)
    """Of what the network reads."""
    encoder: Literal["lstm", "mlp"] = Field("lstm", description="The network of p-tuning: lstm or mlp.")
    width: int = Field(400, ge=1, description=WIDTH)
    pattern: str | None = Field(
        None, description="Words of p-tuning between its virtual tokens, each of which is a *: '** Sentiment * :'."
    )
    """What Liu et al. call anchors: their embeddings are the model's own, and stay."""

    @model_validator(mode="before")
    @classmethod
    def _length_of_pattern(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or (pattern := fields.get("pattern")) is None:
            return fields
        length = str(pattern).count(VIRTUAL)
        if not length:
            raise ValueError(f"pattern {pattern!r}: has no {VIRTUAL}, which stands for a virtual token")
        if fields.get("length", length) != length:
            raise ValueError(f"length {fields['length']}: the pattern has {length} {VIRTUAL}; leave the length out")
        return fields | {"length": length}

    def parts(self, backbone: Backbone) -> list[list[int] | None]:
        """The prompt in its order: pieces of words, and None for each virtual token."""
        if self.pattern is None:
            return [None] * self.length
        written = [part.rstrip() for part in re.split(rf"({re.escape(VIRTUAL)})", self.pattern)]
        return [None if part == VIRTUAL else text_ids(backbone, part) for part in written if part]

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        parts = self.parts(backbone)
        words = torch.tensor([piece for part in parts if part is not None for piece in part], dtype=torch.long)
        anchors = backbone.embeddings[words.to(backbone.device)].float().cpu()  # [a, d]
        virtual = torch.tensor([part is None for part in parts for _ in part or [0]])  # [n + a]
        encoder = Lstm if self.encoder == "lstm" else Mlp
        return Encoded(start, encoder(backbone.width, self.width, seeds), anchors, virtual)

    def counts(self, backbone: Backbone) -> Counts:
        n, d, width = self.length, backbone.width, self.width
        anchors = sum(len(part) for part in self.parts(backbone) if part is not None)
        if self.encoder == "lstm":
            layers = [2 * 4 * width * (size + width + 1) for size in (d, 2 * width)]
            network = sum(layers) + (2 * width + 1) * 2 * width + (2 * width + 1) * d
        else:
            network = (d + 1) * width + (width + 1) * width + (width + 1) * d
        return Counts(trained=n * d + network, stored=(n + anchors) * d)


class Encoded(EmbeddingPrompts):
    """What a network makes of a table `[P, n, d]`, with the embeddings of words `[a, d]` between."""

    def __init__(self, start: Tensor, encoder: Lstm | Mlp, anchors: Tensor, virtual: Tensor) -> None:
        """`virtual`: True for each virtual token of the prompt, False for a word, `[n + a]`."""
        super().__init__()
        self.table = nn.Parameter(start)
        self.encoder = encoder
        self.anchors: Tensor
        self.register_buffer("anchors", anchors)
        self.order: Tensor
        self.register_buffer("order", torch.argsort(torch.argsort((~virtual).long(), stable=True)))

    def embeddings(self) -> Tensor:
        made: Tensor = self.encoder(self.table)
        both = torch.cat([made, self.anchors.expand(len(made), -1, -1)], dim=1)  # virtual tokens first
        return both[:, self.order]


class Mlp(nn.Module):
    """Two hidden layers, for each of P prompts its own: `[P, n, d]` to `[P, n, d]`."""

    def __init__(self, d: int, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Affine(f"layer{place}", *sizes, seeds)
                for place, sizes in enumerate([(d, width), (width, width), (width, d)])
            ]
        )

    def forward(self, table: Tensor) -> Tensor:
        first, second, last = self.layers
        made: Tensor = last(torch.relu(second(torch.relu(first(table)))))
        return made


class Lstm(nn.Module):
    """Two layers of an LSTM that reads both ways, then an MLP, for each of P prompts its own: `[P, n, d]` to
    `[P, n, d]`."""

    def __init__(self, d: int, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        layers = list(enumerate((d, 2 * width)))
        self.ahead = nn.ModuleList(Direction(f"ahead{layer}", size, width, seeds) for layer, size in layers)
        self.back = nn.ModuleList(Direction(f"back{layer}", size, width, seeds) for layer, size in layers)
        self.hidden = Affine("hidden", 2 * width, 2 * width, seeds)
        self.out = Affine("out", 2 * width, d, seeds)

    def forward(self, table: Tensor) -> Tensor:
        states = table
        for ahead, back in zip(self.ahead, self.back, strict=True):
            states = torch.cat([ahead(states), back(states.flip(1)).flip(1)], dim=2)  # [P, n, 2 width]
        made: Tensor = self.out(torch.relu(self.hidden(states)))
        return made


class Affine(nn.Module):
    """P linear layers side by side: `[P, n, in]` to `[P, n, out]`."""

    def __init__(self, name: str, size: int, out: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(drawn(seeds, name, (size, out)))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, out))

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight + self.bias


class Direction(nn.Module):
    """One way through one layer of P LSTMs: `[P, n, in]` to `[P, n, width]`. Torch's own cannot hold P side by side."""

    def __init__(self, name: str, size: int, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.inputs = Affine(f"{name}.inputs", size, 4 * width, seeds)
        self.recurrent = nn.Parameter(drawn(seeds, f"{name}.recurrent", (width, 4 * width)))

    def forward(self, states: Tensor) -> Tensor:
        gates = self.inputs(states)  # [P, n, 4 width], in torch's order: input, forget, cell, output
        hidden = cell = states.new_zeros(len(states), 1, self.recurrent.shape[1])
        outputs = []
        for gate in gates.split(1, dim=1):
            enter, keep, new, show = (gate + hidden @ self.recurrent).chunk(4, dim=2)
            cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.cat(outputs, dim=1)

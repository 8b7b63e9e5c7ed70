"""What the candidates of docs/results/own-method/plan.md train that is no method of this project, and how it acts on a
model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from preface.backbones import causal_attention
from preface.backbones.base import Backbone
from preface.backbones.frozen import FrozenLinear
from preface.methods import PromptModule
from preface.prompts import Prompts


@contextmanager
def growing(alpha: float, usual: float) -> Iterator[None]:
    """α log(N / N₀) is added to the scores of a prefix's keys, where N₀ is `usual`."""
    plain = causal_attention._prefix_bias

    def grown(site: str, prefix: Any, call: Any, window: int | None, dtype: torch.dtype) -> Tensor | None:
        known = (site, window) in call.biases
        bias = plain(site, prefix, call, window, dtype)
        if known or call.text_mask is None:
            return bias
        own = alpha * (call.text_mask.sum(1).to(dtype) / usual).log()  # [N]
        own = own.repeat(len(call.positions) // len(own))[:, None, None, None].expand(-1, 1, 1, prefix.length)
        call.biases[site, window] = own if bias is None else own + bias
        return call.biases[site, window]

    if alpha:
        causal_attention._prefix_bias = grown
    try:
        yield
    finally:
        causal_attention._prefix_bias = plain


class Queries(PromptModule):
    """P changes of the queries of every layer: `down` `[P, L, rank, d]`, `up` `[P, L, heads × e, rank]`, at first 0."""

    def __init__(self, backbone: Backbone, rank: int, seeds: Sequence[int]) -> None:
        super().__init__()
        outputs, inputs = projections(backbone)[0].plain.shape
        layers = len(projections(backbone))
        drawn = [torch.randn(layers, rank, inputs, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.down = torch.nn.Parameter(torch.stack(drawn) * inputs**-0.5)
        self.up = torch.nn.Parameter(torch.zeros(len(seeds), layers, outputs, rank))

    def forward(self) -> Prompts:
        return Prompts({"queries.down": self.down, "queries.up": self.up})


class Both(PromptModule):
    """What two modules make, side by side."""

    def __init__(self, one: PromptModule, other: PromptModule) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self) -> Prompts:
        return Prompts({**self.one().tensors, **self.other().tensors})


class Shared(PromptModule):
    """P prefixes that T sources share, each source's times a matrix of rank one of its own, as multitask prompt tuning
    has it (Wang et al. 2023): `u` `[P, T, n]`, and `v` of each tensor `[P, T, L, H, 1, e]`, which begin at ones."""

    def __init__(self, start: Prompts, sources: int) -> None:
        super().__init__()
        self.tables = torch.nn.ParameterList(start.tensors.values())
        self.names = list(start.tensors)
        self.u = torch.nn.Parameter(torch.ones(start.size, sources, self.tables[0].shape[3]))
        self.v = torch.nn.ParameterList(
            table.new_ones(start.size, sources, *table.shape[1:3], 1, table.shape[4]) for table in self.tables
        )

    def forward(self) -> Prompts:
        """Of each source, `[P T, ...]`, a member's sources side by side."""
        own = (
            (table[:, None] * self.u[:, :, None, None, :, None] * v).flatten(0, 1)
            for table, v in zip(self.tables, self.v, strict=True)
        )
        return Prompts(dict(zip(self.names, own, strict=True)))

    def shared(self) -> Prompts:
        """What a domain never seen is answered with, `[P, ...]`."""
        return Prompts(dict(zip(self.names, self.tables, strict=True)))


def projections(backbone: Backbone) -> list[FrozenLinear]:
    """Those that make queries, by layer."""
    return [layer.self_attn.q_proj for layer in backbone.model.model.layers]


@contextmanager
def turned(backbone: Backbone, prompts: Prompts) -> Iterator[None]:
    """Queries change as prompts have it, whose rows lie side by side."""
    if "queries.up" not in prompts.tensors:
        yield
        return
    pairs = zip(prompts.tensors["queries.down"].unbind(1), prompts.tensors["queries.up"].unbind(1), strict=True)
    hooks = [
        projection.register_forward_hook(partial(_turn, down, up))
        for projection, (down, up) in zip(projections(backbone), pairs, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _turn(down: Tensor, up: Tensor, module: FrozenLinear, given: tuple[Tensor], output: Tensor) -> Tensor:
    own = given[0].unflatten(0, (len(down), -1)).flatten(1, 2)  # [P, rows, d]
    return output + (own @ down.mT @ up.mT).view_as(output)

"""What prompts add to the states of their own tokens between the layers of a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preface.prompts import Prompts


class Begun(NamedTuple):
    """What the sequence that a layer works on begins with."""

    carrier: str | None
    """Whose embeddings, where the prompts have them."""
    prompts: Prompts | None
    rows: Tensor | None
    """The prompt of each row."""
    start: int = 0
    """How many of the sequence have been there before."""


def add_before_layers(layers: nn.ModuleList, begun: Callable[[Mapping[str, Any]], Begun]) -> None:
    """Let prompts add to the states of their embeddings before each layer but the first (`Prompts.added`).

    Args:
        layers: in their order; each is called with the states `[B, q, d]` first.
        begun: says of the arguments by name that a layer is called with what its sequence begins with.
    """
    if hasattr(layers, "added_to"):  # a backbone has been made of this model before
        return
    layers.added_to = True  # type: ignore[assignment]
    for number, layer in enumerate(layers):
        if number:
            layer.register_forward_pre_hook(partial(_add, number, begun), with_kwargs=True)


def _add(
    number: int,
    begun: Callable[[Mapping[str, Any]], Begun],
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A hook before layer `number`: what it is called with instead; None: nothing is added."""
    carrier, prompts, rows, start = begun(kwargs)
    if carrier is None or prompts is None:
        return None
    states, *others = args
    if (added := prompts.added(carrier, number, states, rows, start)) is None:
        return None
    m = added.shape[1]
    return (torch.cat([states[:, :m] + added, states[:, m:]], dim=1), *others), kwargs

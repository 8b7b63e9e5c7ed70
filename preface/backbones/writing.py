"""Answers that are being written, a piece at a time; rows may join and leave between two pieces.

Where a whole batch begins and ends together, and for beam search, there is `Backbone.generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from preface.backbones.base import Backbone, Context, Layers, placed
from preface.prompts import Prompts


@dataclass(frozen=True)
class Writing:
    """What the next piece of B answers goes on from: what was read, and the keys and values of what was written."""

    context: Context
    """Of each row, `[B, m, w]`."""
    real: Tensor
    """`[B, k]`, False where a row has written less than others: it is padded on the left."""
    own: tuple[tuple[Tensor, Tensor], ...] | None = None
    """Keys and values of each layer, `[B, H, k, e]`; None: nothing has been written."""
    text: Layers | None = None
    """What a decoder-only backbone makes of the context with the first piece, for those to come; None: not made."""

    @classmethod
    def after(cls, context: Context) -> Writing:
        """Nothing yet."""
        return cls(context, context.mask.new_zeros(len(context.mask), 0).bool())

    def __len__(self) -> int:
        return len(self.real)

    def select(self, rows: Sequence[int]) -> Writing:
        """Some of the rows, in that order, without what only the others needed."""
        chosen = torch.tensor(rows, device=self.real.device)
        mask, real = self.context.mask[chosen], self.real[chosen]
        read, written = int(mask.sum(1).max()), int(real.sum(1).max())
        # texts are padded on the right, what is written on the left
        length = read if bool(mask[:, :read].sum() == mask.sum()) else mask.shape[1]
        context = Context(self.context.states[chosen][:, :length], mask[:, :length])
        start = real.shape[1] - written
        own = (
            None if self.own is None else tuple((k[chosen][:, :, start:], v[chosen][:, :, start:]) for k, v in self.own)
        )
        return Writing(context, real[:, start:], own)


def joined(several: Sequence[Writing]) -> Writing:
    """All rows of several, each of which has written something."""
    if len(several) == 1:
        return several[0]
    read = max(each.context.mask.shape[1] for each in several)
    written = max(each.real.shape[1] for each in several)

    def right(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, read - tensor.shape[1]))

    def left(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, 0, written - tensor.shape[2], 0))

    context = Context(
        torch.cat([right(each.context.states) for each in several]),
        torch.cat([right(each.context.mask) for each in several]),
    )
    real = torch.cat([pad(each.real, (written - each.real.shape[1], 0)) for each in several])
    layers = zip(*(each.own or () for each in several), strict=True)
    own = tuple(
        (torch.cat([left(keys) for keys, _ in layer]), torch.cat([left(values) for _, values in layer]))
        for layer in layers
    )
    return Writing(context, real, own)


def seen_before(real: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """What each of the last places of some rows sees, `[B, q, k]`, and the place of each in its row, `[B, k]`; `real`
    `[B, k]`. What is padding sees itself, so that its sums are numbers."""
    size = real.shape[1]
    earlier = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=real.device)
    seen = (earlier & real[:, None]) | itself
    return seen[:, size - queries :], (real.cumsum(1) - 1).clamp(min=0)


def begin(
    backbone: Backbone,
    context: Context,
    lead_in: Sequence[int],
    prompts: Prompts | None = None,
    rows: Tensor | None = None,
) -> tuple[Writing, Tensor]:
    """Begin an answer about each of B texts, after the pieces of `lead_in`.

    Returns what `go_on` goes on from, and the scores of the first piece, `[B, vocabulary]`. `prompts` and `rows` are as
    for `Backbone.answer`, without label vectors.
    """
    size = len(context.mask)
    embedded = backbone.embed(torch.tensor([list(lead_in)], device=backbone.device)).expand(size, -1, -1)
    real = torch.ones(embedded.shape[:2], dtype=torch.bool, device=backbone.device)
    if prompts is not None and prompts.after is not None:
        after, seen = placed(prompts, "after", rows, embedded)
        embedded, real = torch.cat([after, embedded], dim=1), torch.cat([seen, real], dim=1)
    writing, hidden = backbone.write(Writing.after(context), embedded, real, prompts, rows)
    return writing, backbone.head.logits(hidden)


def go_on(
    backbone: Backbone, writing: Writing, pieces: Tensor, prompts: Prompts | None = None, rows: Tensor | None = None
) -> tuple[Writing, Tensor]:
    """Go on with the pieces `[B]` that were chosen; returns as `begin`."""
    real = torch.ones(len(pieces), 1, dtype=torch.bool, device=backbone.device)
    writing, hidden = backbone.write(writing, backbone.embed(pieces[:, None]), real, prompts, rows)
    return writing, backbone.head.logits(hidden)

"""Attention by plain products over several kinds of keys, its gradient in closed form.

A query sees a prompt's keys, those of a text that has been read, and those of its own sequence. Scores are taken of
each kind by itself and go through one softmax: so neither a text's keys are copied for the prompts that answer about
it, nor a prompt's for its rows. On the short sequences that prompts are trained with, plain products beat torch's fused
kernel on a CPU, and what a step costs beside its products is the number of its operations: written out, forward and
backward, they are few. The gradient of a softmax w over scores s is ds = w (dw − Σ w dw).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 256
"""Keys up to which plain products beat torch's fused kernel on a CPU (docs/performance.md)."""


class Keys(ABC):
    """Keys of one kind, and their values."""

    count: ClassVar[int] = 2
    """Of tensors."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    @abstractmethod
    def scores(self, query: Tensor) -> Tensor:
        """`[B, H, q, e]` to `[B, H, q, k]`."""

    @abstractmethod
    def mixed(self, weights: Tensor) -> Tensor:
        """The sum of the values: `[B, H, q, k]` to `[B, H, q, e]`."""

    @abstractmethod
    def of_weights(self, gradient: Tensor) -> Tensor:
        """The gradient of the weights, from that of the output: `[B, H, q, e]` to `[B, H, q, k]`."""

    @abstractmethod
    def of_query(self, scores: Tensor, like: Tensor) -> Tensor:
        """The gradient of the query, from that of the scores: `[B, H, q, k]` to `[B, H, q, e]`, the shape of `like`."""

    @abstractmethod
    def of_tensors(self, query: Tensor, weights: Tensor, gradient: Tensor, scores: Tensor) -> Sequence[Tensor | None]:
        """The gradients of the tensors, from those of output and scores."""


class SideBySide(Keys):
    """Keys and values `[R, H, k, e]`: row b sees item b // (B / R). A prompt's; or a sequence's own, where R is B."""

    def _folded(self, rows: Tensor) -> Tensor:
        """`[B, H, q, w]` to `[R * H, B / R * q, w]`: all that one head of one item is multiplied with."""
        items = len(self.tensors[0])
        if items == len(rows):
            return rows.flatten(0, 1)
        return rows.unflatten(0, (items, -1)).transpose(1, 2).reshape(items * rows.shape[1], -1, rows.shape[-1])

    def _unfolded(self, folded: Tensor, like: Tensor) -> Tensor:
        """Back to `[B, H, q, w]`, where `like` is `[B, H, q, ·]`."""
        items = len(self.tensors[0])
        size, heads, few = like.shape[:3]
        if items == size:
            return folded.view(size, heads, few, -1)
        return folded.view(items, heads, size // items, few, -1).transpose(1, 2).reshape(size, heads, few, -1)

    def _product(self, rows: Tensor, matrix: Tensor) -> Tensor:
        return self._unfolded(torch.bmm(self._folded(rows), matrix), rows)

    def scores(self, query: Tensor) -> Tensor:
        return self._product(query, self.tensors[0].flatten(0, 1).transpose(1, 2))

    def mixed(self, weights: Tensor) -> Tensor:
        return self._product(weights, self.tensors[1].flatten(0, 1))

    def of_weights(self, gradient: Tensor) -> Tensor:
        return self._product(gradient, self.tensors[1].flatten(0, 1).transpose(1, 2))

    def of_query(self, scores: Tensor, like: Tensor) -> Tensor:
        return self._product(scores, self.tensors[0].flatten(0, 1))

    def of_tensors(self, query: Tensor, weights: Tensor, gradient: Tensor, scores: Tensor) -> Sequence[Tensor | None]:
        keys = torch.bmm(self._folded(scores).transpose(1, 2), self._folded(query))
        values = torch.bmm(self._folded(weights).transpose(1, 2), self._folded(gradient))
        return keys.view_as(self.tensors[0]), values.view_as(self.tensors[1])


class InTurn(SideBySide):
    """Keys and values `[R, H, k, e]`: row b sees item b % R. Texts', about which each of B / R prompts answers."""

    def _folded(self, rows: Tensor) -> Tensor:
        items = len(self.tensors[0])
        if items == len(rows):
            return rows.flatten(0, 1)
        return rows.unflatten(0, (-1, items)).permute(1, 2, 0, 3, 4).reshape(items * rows.shape[1], -1, rows.shape[-1])

    def _unfolded(self, folded: Tensor, like: Tensor) -> Tensor:
        items = len(self.tensors[0])
        size, heads, few = like.shape[:3]
        if items == size:
            return folded.view(size, heads, few, -1)
        by_item = folded.view(items, heads, size // items, few, -1)
        return by_item.permute(2, 0, 1, 3, 4).reshape(size, heads, few, -1)


class Projected(Keys):
    """An encoder's states `[B, k, d]` and two frozen weights `[H * e, d]`, by which keys and values are never made.

    A score is q · (W_k h) = (W_kᵀ q) · h, and an output W_v (Σ w h): both projections stand on the side of the queries.
    """

    count = 3

    def scores(self, query: Tensor) -> Tensor:
        states, key_weight, _ = self.tensors
        return torch.bmm(_moved(query, key_weight), states.transpose(1, 2)).view(*query.shape[:3], -1)

    def mixed(self, weights: Tensor) -> Tensor:
        states, _, value_weight = self.tensors
        return _moved_back(torch.bmm(weights.flatten(1, 2), states), value_weight, weights)

    def of_weights(self, gradient: Tensor) -> Tensor:
        states, _, value_weight = self.tensors
        return torch.bmm(_moved(gradient, value_weight), states.transpose(1, 2)).view(*gradient.shape[:3], -1)

    def of_query(self, scores: Tensor, like: Tensor) -> Tensor:
        states, key_weight, _ = self.tensors
        return _moved_back(torch.bmm(scores.flatten(1, 2), states), key_weight, like)

    def of_tensors(self, query: Tensor, weights: Tensor, gradient: Tensor, scores: Tensor) -> Sequence[Tensor | None]:
        _, key_weight, value_weight = self.tensors
        states = torch.bmm(scores.flatten(1, 2).transpose(1, 2), _moved(query, key_weight))
        states.baddbmm_(weights.flatten(1, 2).transpose(1, 2), _moved(gradient, value_weight))
        return states, None, None


def attention(
    query: Tensor,
    kinds: Sequence[Keys],
    bias: Tensor | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention over keys of several kinds.

    Args:
        query: `[B, H, q, e]`, scaled already.
        kinds: their keys stand one after the other, K in all.
        bias: added to the scores, broadcasts to `[B, H, q, K]`; it gets no gradient.
        softcap: scores stay within ± this.
        dropout: the share of the weights that is left out.

    Returns:
        `[B, H, q, e]`.
    """
    tensors = [tensor for keys in kinds for tensor in keys.tensors]
    output: Tensor = _Attention.apply(query, bias, softcap, dropout, [type(keys) for keys in kinds], *tensors)
    return output


def joined_bias(each: Sequence[tuple[int, Tensor | None]], like: Tensor) -> Tensor | None:
    """The biases of keys of several kinds in one tensor.

    Args:
        each: how many keys, and their bias, which broadcasts to `[B, H, q, k]`; None: zeros.
        like: has the device and the type of the zeros.

    Returns:
        Broadcasts to `[B, H, q, K]`; None where there are no biases.
    """
    if all(bias is None for _, bias in each):
        return None
    written = [like.new_zeros(1, 1, 1, k) if bias is None else bias for k, bias in each]
    shape = torch.broadcast_shapes(*(bias.shape[:3] for bias in written))
    return torch.cat([bias.expand(*shape, -1) for bias in written], dim=-1)


def _made(kinds: Sequence[type[Keys]], tensors: Sequence[Any]) -> list[Keys]:
    left = iter(tensors)
    return [kind(*(next(left) for _ in range(kind.count))) for kind in kinds]


def _joined(several: Sequence[Tensor]) -> Tensor:
    """Of all kinds, `[B, H, q, K]`."""
    return several[0] if len(several) == 1 else torch.cat(list(several), dim=-1)


def _total(several: Sequence[Tensor]) -> Tensor:
    total: Tensor = sum(several[1:], several[0])
    return total


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        dropout: float,
        kinds: Sequence[type[Keys]],
        *tensors: Tensor,
    ) -> Tensor:
        made = _made(kinds, tensors)
        by_kind = [keys.scores(query) for keys in made]
        scores, slope, kept = _joined(by_kind), None, None
        if softcap is not None:
            within = torch.tanh(scores / softcap)
            scores, slope = within * softcap, 1 - within.square()
        if bias is not None:
            scores = scores + bias
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        used = weights
        if dropout:
            kept = (torch.rand_like(weights) >= dropout).to(weights.dtype) / (1 - dropout)
            used = weights * kept
        ctx.kinds, ctx.sizes = kinds, [item.shape[-1] for item in by_kind]
        ctx.save_for_backward(query, weights, slope, kept, *tensors)
        shares = used.split(ctx.sizes, dim=-1)
        return _total([keys.mixed(share) for keys, share in zip(made, shares, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, weights, slope, kept, *tensors = ctx.saved_tensors
        made = _made(ctx.kinds, tensors)
        gradient = gradient.contiguous()
        through = _joined([keys.of_weights(gradient) for keys in made])
        if kept is not None:
            through = through * kept
        through = torch._softmax_backward_data(through, weights, -1, weights.dtype)  # the scores' gradient
        if slope is not None:
            through = through * slope
        used = weights if kept is None else weights * kept
        parts = list(zip(made, used.split(ctx.sizes, dim=-1), through.split(ctx.sizes, dim=-1), strict=True))
        by_query = None
        if ctx.needs_input_grad[0]:
            by_query = _total([keys.of_query(scores, query) for keys, _, scores in parts])
        by_tensor: list[Tensor | None] = []
        for keys, share, scores in parts:
            place = 5 + len(by_tensor)
            if any(ctx.needs_input_grad[place : place + keys.count]):
                by_tensor += keys.of_tensors(query, share, gradient, scores)
            else:
                by_tensor += [None] * keys.count
        return by_query, None, None, None, None, *by_tensor


def _moved(query: Tensor, weight: Tensor) -> Tensor:
    """`[B, H, S, e]` through each head's part of `weight` `[H * e, d]`: `[B, H * S, d]`."""
    size, heads, few, width = query.shape
    by_head = query.transpose(0, 1).reshape(heads, size * few, width)  # all rows of a head in one product
    moved = torch.bmm(by_head, weight.view(heads, width, -1))  # [H, B * S, d]
    return moved.view(heads, size, few, -1).transpose(0, 1).reshape(size, heads * few, -1)


def _moved_back(mixed: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """`[B, H * S, d]` through each head's part of `weight` `[H * e, d]`: `[B, H, S, e]`, where `like` is
    `[B, H, S, ·]`."""
    size, heads, few = like.shape[:3]
    by_head = mixed.view(size, heads, few, -1).transpose(0, 1).reshape(heads, size * few, -1)
    back = torch.bmm(by_head, weight.view(heads, len(weight) // heads, -1).transpose(1, 2))  # [H, B * S, e]
    return back.view(heads, size, few, -1).transpose(0, 1)

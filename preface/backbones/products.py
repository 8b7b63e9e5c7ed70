"""Attention by plain products, its gradient in closed form.

On the short sequences that prompts are trained with, plain products beat torch's fused kernel on a CPU, and what a step
costs beside its products is the number of its operations: written out, forward and backward, they are few.
The gradient of a softmax w over scores s is ds = w (dw − Σ w dw).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention over a prefix and the tokens' own keys.

    Args:
        query: `[B, H, q, e]`, scaled already.
        key, value: `[B, H, k, e]`.
        keys, values: the prefix, `[P, H, n, e]`, each worn by B / P rows side by side; None: none. It is multiplied
            with all rows that wear it at once, so it is never copied, and its gradient is a product too.
        bias: added to the scores, broadcasts to `[B, H, q, n + k]`; it gets no gradient.

    Returns:
        `[B, H, q, e]`.
    """
    output: Tensor = _SelfAttention.apply(query, key, value, keys, values, bias)
    return output


def cross_attention(
    query: Tensor,
    states: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention over a prefix and an encoder's states, whose keys and values are never made.

    A score is q · (W_k h) = (W_kᵀ q) · h, and an output W_v (Σ w h): both projections stand on the side of the queries.

    Args:
        query: `[B, H, S, e]`.
        states: `[B, m, d]`.
        key_weight, value_weight: frozen, `[H * e, d]`.
        keys, values, bias: as in `self_attention`.

    Returns:
        `[B, H, S, e]`.
    """
    output: Tensor = _CrossAttention.apply(query, states, key_weight, value_weight, keys, values, bias)
    return output


def _together(rows: Tensor, prompts: int) -> Tensor:
    """`[B, H, q, e]` to `[P * H, B / P * q, e]`: all that one head of one prompt is multiplied with."""
    size, heads, few, width = rows.shape
    return rows.reshape(prompts, size // prompts, heads, few, width).transpose(1, 2).reshape(prompts * heads, -1, width)


def _apart(together: Tensor, like: Tensor, prompts: int) -> Tensor:
    """Back to `[B, H, q, e]`, where `like` is `[B, H, q, ·]`."""
    size, heads, few = like.shape[:3]
    return together.view(prompts, heads, size // prompts, few, -1).transpose(1, 2).reshape(size, heads, few, -1)


def _softmax(scores: Tensor, bias: Tensor | None) -> Tensor:
    """In float32, in the type of the scores."""
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)


def _softmax_gradient(weights: Tensor, gradient: Tensor) -> Tensor:
    return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)


class _Prefix:
    """The part of attention that goes through the prefix."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.prompts, self.n = keys.shape[0], keys.shape[2]
        self.keys, self.values = keys.flatten(0, 1), values.flatten(0, 1)  # [P * H, n, e]

    def beside(self, query: Tensor, own: Tensor) -> Tensor:
        """The scores of prefix and tokens, `[B, H, q, n + k]`."""
        scores = torch.bmm(_together(query, self.prompts), self.keys.transpose(1, 2))
        return torch.cat([_apart(scores, query, self.prompts), own], dim=-1)

    def output(self, weights: Tensor) -> Tensor:
        """`[B, H, q, n + k]` to `[B, H, q, e]`."""
        mixed = torch.bmm(_together(weights[..., : self.n], self.prompts), self.values)
        return _apart(mixed, weights, self.prompts)

    def beside_gradient(self, gradient: Tensor, own: Tensor) -> Tensor:
        """The gradient of all weights from that of the output and that of the tokens' own weights."""
        weights = torch.bmm(_together(gradient, self.prompts), self.values.transpose(1, 2))
        return torch.cat([_apart(weights, gradient, self.prompts), own], dim=-1)

    def gradients(
        self, query: Tensor, weights: Tensor, gradient: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, keys and values, from those of output and scores."""
        through = _together(scores[..., : self.n], self.prompts)  # [P * H, B / P * q, n]
        together = _together(gradient, self.prompts)
        shape = (self.prompts, -1, *self.keys.shape[1:])
        keys = torch.bmm(through.transpose(1, 2), _together(query, self.prompts)).view(shape)
        values = torch.bmm(_together(weights[..., : self.n], self.prompts).transpose(1, 2), together).view(shape)
        return _apart(torch.bmm(through, self.keys), query, self.prompts), keys, values


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        size, heads, few, width = query.shape
        q, k, v = (item.reshape(size * heads, -1, width) for item in (query, key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).view(size, heads, few, -1)
        prefix = _Prefix(keys, values) if keys is not None and values is not None else None
        if prefix is not None:
            scores = prefix.beside(query, scores)
        weights = _softmax(scores, bias)
        n = 0 if prefix is None else prefix.n
        output = torch.bmm(weights[..., n:].reshape(size * heads, few, -1), v).view(query.shape)
        ctx.save_for_backward(query, k, v, keys, values, weights)
        return output if prefix is None else output + prefix.output(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, k, v, keys, values, weights = ctx.saved_tensors
        size, heads, few, width = query.shape
        prefix = _Prefix(keys, values) if keys is not None else None
        n = 0 if prefix is None else prefix.n
        g = gradient.reshape(size * heads, few, width)
        through = torch.bmm(g, v.transpose(1, 2)).view(size, heads, few, -1)  # the weights' gradient
        if prefix is not None:
            through = prefix.beside_gradient(gradient, through)
        through = _softmax_gradient(weights, through)  # the scores' gradient
        own = through[..., n:].reshape(size * heads, few, -1)
        by_query, by_key, by_value = None, None, None
        if ctx.needs_input_grad[0]:
            by_query = torch.bmm(own, k).view(query.shape)
        if ctx.needs_input_grad[1]:
            by_key = torch.bmm(own.transpose(1, 2), query.reshape(size * heads, few, width))
            by_key = by_key.view(size, heads, -1, width)
        if ctx.needs_input_grad[2]:
            own_weights = weights[..., n:].reshape(size * heads, few, -1)
            by_value = torch.bmm(own_weights.transpose(1, 2), g).view(size, heads, -1, width)
        if prefix is None:
            return by_query, by_key, by_value, None, None, None
        more, by_keys, by_values = prefix.gradients(query, weights, gradient, through)
        return None if by_query is None else by_query + more, by_key, by_value, by_keys, by_values, None


class _CrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        states: Tensor,
        key_weight: Tensor,
        value_weight: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        size, heads, few, _ = query.shape
        moved = _moved(query, key_weight)  # [B, H * S, d]
        scores = torch.bmm(moved, states.transpose(1, 2)).view(size, heads, few, -1)
        prefix = _Prefix(keys, values) if keys is not None and values is not None else None
        if prefix is not None:
            scores = prefix.beside(query, scores)
        weights = _softmax(scores, bias)
        n = 0 if prefix is None else prefix.n
        mixed = torch.bmm(weights[..., n:].reshape(size, heads * few, -1), states)  # [B, H * S, d]
        output = _moved_back(mixed, value_weight, query)
        ctx.save_for_backward(query, states, key_weight, value_weight, keys, values, weights)
        return output if prefix is None else output + prefix.output(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, states, key_weight, value_weight, keys, values, weights = ctx.saved_tensors
        size, heads, few, _ = query.shape
        prefix = _Prefix(keys, values) if keys is not None else None
        n = 0 if prefix is None else prefix.n
        mixed = _moved(gradient, value_weight)  # the gradient of the mixed states, [B, H * S, d]
        through = torch.bmm(mixed, states.transpose(1, 2)).view(size, heads, few, -1)  # the weights' gradient
        if prefix is not None:
            through = prefix.beside_gradient(gradient, through)
        through = _softmax_gradient(weights, through)  # the scores' gradient
        own = through[..., n:].reshape(size, heads * few, -1)  # [B, H * S, m]
        by_query, by_states = None, None
        if ctx.needs_input_grad[0]:
            by_query = _moved_back(torch.bmm(own, states), key_weight, query)
        if ctx.needs_input_grad[1]:
            own_weights = weights[..., n:].reshape(size, heads * few, -1)
            by_states = torch.bmm(own.transpose(1, 2), _moved(query, key_weight))
            by_states = by_states.baddbmm_(own_weights.transpose(1, 2), mixed)
        if prefix is None:
            return by_query, by_states, None, None, None, None, None
        more, by_keys, by_values = prefix.gradients(query, weights, gradient, through)
        by_query = None if by_query is None else by_query + more
        return by_query, by_states, None, None, by_keys, by_values, None


def _moved(query: Tensor, weight: Tensor) -> Tensor:
    """`[B, H, S, e]` through each head's part of `weight` `[H * e, d]`: `[B, H * S, d]`."""
    size, heads, few, width = query.shape
    by_head = query.transpose(0, 1).reshape(heads, size * few, width)  # all rows of a head in one product
    moved = torch.bmm(by_head, weight.view(heads, width, -1))  # [H, B * S, d]
    return moved.view(heads, size, few, -1).transpose(0, 1).reshape(size, heads * few, -1)


def _moved_back(mixed: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """`[B, H * S, d]` through each head's part of `weight` `[H * e, d]`: `[B, H, S, e]`, the shape of `like`."""
    size, heads, few, width = like.shape
    by_head = mixed.view(size, heads, few, -1).transpose(0, 1).reshape(heads, size * few, -1)
    back = torch.bmm(by_head, weight.view(heads, width, -1).transpose(1, 2))  # [H, B * S, e]
    return back.view(heads, size, few, width).transpose(0, 1)

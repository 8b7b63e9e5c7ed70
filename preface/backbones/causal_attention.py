"""The attention of decoder-only models, which reads prompts, and goes on from a text that has been read.

One function for every model whose attention goes through Transformers' `AttentionInterface`: what differs between
families (rotary positions, norms of queries and keys, scalings) is done before it is called, or is an argument.

The keys that a query sees are of three kinds: a prompt's, the text's, and those of its own sequence. Scores are taken
of each kind by itself, so that neither the text's keys are copied for the prompts that answer about it, nor a
prompt's for its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from preface.prompts import Prefix, Prompts

NAME = "preface-causal"
"""The name under which the function is registered."""


@dataclass
class Call:
    """What one pass through the model has to do with, handed down to every layer."""

    positions: Tensor
    """Of each query, `[B, q]`."""
    own: Tensor | None
    """Which of its own sequence's keys each query may see, `[B or 1, q, k]`; None: those before it."""
    own_positions: Tensor
    """Of its own sequence's keys, `[B, k]`."""
    sites: tuple[str, ...]
    """The sites whose prefixes are seen."""
    prompts: Prompts | None = None
    rows: Tensor | None = None
    text: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
    """Keys and values of N texts in each layer, `[N, H, T, e]`: row b goes on from text b % N."""
    text_mask: Tensor | None = None
    """`[N, T]`, True where a token is real."""
    text_positions: Tensor | None = None
    """`[B, T]`."""
    made: list[tuple[Tensor, Tensor]] | None = None
    """Takes the keys and values that each layer makes, `[B, H, k, e]`, where they are wanted."""
    biases: dict[Any, Tensor | None] = field(default_factory=dict)
    """What is added to the scores, by kind of key and window: built by the first layer, read by the others."""


def attention(
    module: Any,
    query: Tensor,  # [B, G * H, q, e]
    key: Tensor,  # [B, H, k, e]
    value: Tensor,  # [B, H, k, e]
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    call: Call | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention to each row's prefixes, to the text and to the own sequence; returns `[B, q, G * H, e]`."""
    assert call is not None
    if call.made is not None:
        call.made.append((key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefixes = []
    if call.prompts is not None:
        each = ((site, call.prompts.at(site, module.layer_idx, query, call.rows)) for site in call.sites)
        prefixes = [(site, prefix) for site, prefix in each if prefix is not None]
    if not prefixes and call.text is None and softcap is None:
        return _plain(query, key, value, call, scaling, dropout, sliding_window), None
    heads = key.shape[1]
    few = query.unflatten(1, (heads, -1)).flatten(2, 3) * scaling  # [B, H, G * q, e]
    parts = [_own_part(few, key, value, call, sliding_window)]
    if call.text is not None:
        parts.insert(0, _text_part(few, module.layer_idx, call, sliding_window))
    for site, prefix in prefixes:
        parts.insert(0, _prefix_part(few, site, prefix, call, sliding_window))
    output = _combined(parts, query.shape[2], softcap, dropout)  # [B, H, G * q, e]
    return output.unflatten(2, (-1, query.shape[2])).flatten(1, 2).transpose(1, 2).contiguous(), None


@dataclass
class _Part:
    """Keys of one kind."""

    scores: Tensor
    """`[B, H, G * q, k]`."""
    bias: Tensor | None
    """`[B, 1, q or 1, k]`, broadcast; None: all are seen."""
    values: Any
    """From weights `[B, H, G * q, k]` to the sum of values, `[B, H, G * q, e]`."""


def _own_part(query: Tensor, key: Tensor, value: Tensor, call: Call, window: int | None) -> _Part:
    bias = _own_bias(call, window, query.dtype, written=True)
    return _Part(query @ key.transpose(-1, -2), bias, lambda weights: weights @ value)


def _text_part(query: Tensor, layer: int, call: Call, window: int | None) -> _Part:
    assert call.text is not None
    key, value = call.text[0][layer], call.text[1][layer]  # [N, H, T, e]
    size = len(key)

    def folded(item: Tensor) -> Tensor:  # [P * N, H, s, w] to [N, H, P * s, w]
        if len(item) == size:
            return item
        return item.unflatten(0, (-1, size)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def unfolded(item: Tensor) -> Tensor:
        if len(query) == size:
            return item
        return item.unflatten(2, (len(query) // size, -1)).permute(2, 0, 1, 3, 4).flatten(0, 1)

    scores = unfolded(folded(query) @ key.transpose(-1, -2))
    return _Part(scores, _text_bias(call, window, query.dtype), lambda weights: unfolded(folded(weights) @ value))


def _prefix_part(query: Tensor, site: str, prefix: Prefix, call: Call, window: int | None) -> _Part:
    each, own = len(prefix.keys), query.shape[2]
    shared = each < len(query)  # B / P rows of each prompt lie side by side: [B, H, s, w] to [P, H, B / P * s, w]

    def folded(item: Tensor) -> Tensor:
        return item.unflatten(0, (each, -1)).transpose(1, 2).flatten(2, 3) if shared else item

    def unfolded(item: Tensor) -> Tensor:
        return item.unflatten(2, (-1, own)).transpose(1, 2).flatten(0, 1) if shared else item

    scores = unfolded(folded(query) @ prefix.keys.transpose(-1, -2))
    bias = _prefix_bias(site, prefix, call, window, query.dtype)
    return _Part(scores, bias, lambda weights: unfolded(folded(weights) @ prefix.values))


def _combined(parts: Sequence[_Part], queries: int, softcap: float | None, dropout: float) -> Tensor:
    """One softmax over the keys of all parts; `[B, H, G * q, e]`."""
    scores = []
    for part in parts:
        own = part.scores if softcap is None else torch.tanh(part.scores / softcap) * softcap
        if part.bias is not None:
            own = (own.unflatten(2, (-1, queries)) + part.bias[:, :, None]).flatten(2, 3)
        scores.append(own)
    weights = torch.cat(scores, dim=-1).softmax(-1, dtype=torch.float32).to(scores[0].dtype)
    if dropout:
        weights = functional.dropout(weights, dropout)
    sizes = [own.shape[-1] for own in scores]
    sums = [part.values(share) for part, share in zip(parts, weights.split(sizes, dim=-1), strict=True)]
    total: Tensor = sum(sums[1:], sums[0])
    return total


def _plain(
    query: Tensor, key: Tensor, value: Tensor, call: Call, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """Attention to the own sequence alone, by torch's own kernel."""
    bias = _own_bias(call, window, query.dtype)
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=bias is None, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2)


def _own_bias(call: Call, window: int | None, dtype: torch.dtype, written: bool = False) -> Tensor | None:
    """`[B, 1, q, k]`; None where each query sees all before it, which is what a kernel takes, unless `written`."""
    queries, keys = call.positions.shape[1], call.own_positions.shape[1]
    window = None if window is None or keys <= window else window
    if ("own", window) not in call.biases:
        seen = call.own
        if seen is None and (window is not None or (written and queries > 1)):
            seen = torch.ones(queries, keys, dtype=torch.bool, device=call.positions.device).tril(keys - queries)[None]
        if seen is not None and window is not None:
            seen = seen & _within(call.positions, call.own_positions, window)
        call.biases["own", window] = None if seen is None else _bias(seen, dtype)
    return call.biases["own", window]


def _text_bias(call: Call, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """`[B or N, 1, q or 1, T]`."""
    if ("text", window) not in call.biases:
        assert call.text_mask is not None
        assert call.text_positions is not None
        size = len(call.positions)
        seen = call.text_mask[:, None].repeat(size // len(call.text_mask), 1, 1)  # [B, 1, T]
        if window is not None:
            seen = seen & _within(call.positions, call.text_positions, window)
        call.biases["text", window] = _bias(seen, dtype)
    return call.biases["text", window]


def _prefix_bias(site: str, prefix: Prefix, call: Call, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """`[B, 1, q or 1, n]`. Keys of `input` stand at −n … −1 and leave a window as a cache's do; those of `answer` stand
    before the answer, wherever that is, and are always seen."""
    if (site, window) not in call.biases:
        seen = None if prefix.mask is None else prefix.of_rows(prefix.mask)[:, None]  # [B, 1, n]
        if window is not None and site == "input":
            n = prefix.length
            places = torch.arange(-n, 0, device=call.positions.device).expand(len(call.positions), n)
            within = _within(call.positions, places, window)
            seen = within if seen is None else seen & within
        call.biases[site, window] = None if seen is None else _bias(seen, dtype)
    return call.biases[site, window]


def _within(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """`[B, q]` and `[B, k]` to `[B, q, k]`: whether a key is less than `window` before a query."""
    return queries[:, :, None] - keys[:, None] < window


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, q, k]` to `[B, 1, q, k]`: the lowest number where a key may not be seen."""
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen[:, None], zero, torch.finfo(dtype).min)


def register() -> None:
    """Make `attn_implementation="preface-causal"` known to Transformers; masks are made here, from positions."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)

"""The attention of decoder-only models, which reads prompts, and goes on from a text that has been read.

One function for every model whose attention goes through Transformers' `AttentionInterface`: what differs between
families (rotary positions, norms of queries and keys, scalings) is done before it is called, or is an argument.
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

from preface.backbones import products
from preface.backbones.base import Layers
from preface.backbones.products import InTurn, Keys, SideBySide
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
    begins_with: str | None = None
    """The carrier whose embeddings, where prompts have them, its own sequence begins with."""
    text: Layers | None = None
    """Those of N texts, `[N, H, T, e]`: row b goes on from text b % N."""
    text_mask: Tensor | None = None
    """`[N, T]`, True where a token is real."""
    text_positions: Tensor | None = None
    """`[B, T]`."""
    written: Sequence[tuple[Tensor, Tensor]] | None = None
    """Keys and values of what stands before, in its own sequence, in each layer: `[B, H, k - q, e]`."""
    made: list[tuple[Tensor, Tensor]] | None = None
    """Takes each layer's keys and values of its own sequence, `[B, H, k, e]`, where they are wanted."""
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
    if call.written is not None:
        before = call.written[module.layer_idx]
        key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
    if call.made is not None:
        call.made.append((key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefixes = []
    if call.prompts is not None:
        each = ((site, call.prompts.at(site, module.layer_idx, query, call.rows)) for site in call.sites)
        prefixes = [(site, prefix) for site, prefix in each if prefix is not None]
    fused = not prefixes or query.device.type != "cpu" or key.shape[2] > products.SHORT
    if call.text is None and softcap is None and fused:
        return _fused(query, key, value, prefixes, call, scaling, dropout, sliding_window), None
    heads, queries = key.shape[1], query.shape[2]
    kinds: list[Keys] = [SideBySide(prefix.keys, prefix.values) for _, prefix in prefixes]
    if call.text is not None:
        kinds.append(InTurn(call.text[0][module.layer_idx], call.text[1][module.layer_idx]))
    kinds.append(SideBySide(key, value))
    few = query.unflatten(1, (heads, -1)).flatten(2, 3) * scaling  # [B, H, G * q, e]
    bias = _bias(call, prefixes, sliding_window, query.dtype, query.shape[1] // heads)
    output = products.attention(few, kinds, bias, softcap, dropout)  # [B, H, G * q, e]
    return output.unflatten(2, (-1, queries)).flatten(1, 2).transpose(1, 2).contiguous(), None


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefixes: Sequence[tuple[str, Prefix]],
    call: Call,
    scaling: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Attention to prefixes and the own sequence by torch's own kernel, `[B, q, G * H, e]`."""
    each = [*(prefix.by_row() for _, prefix in prefixes), (key, value)]
    keys, values = (torch.cat(part, dim=2) if prefixes else part[0] for part in zip(*each, strict=True))
    bias = _bias(call, prefixes, window, query.dtype) if prefixes else _own_bias(call, window, query.dtype)
    output = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=bias, is_causal=bias is None, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2)


def _bias(
    call: Call, prefixes: Sequence[tuple[str, Prefix]], window: int | None, dtype: torch.dtype, groups: int = 1
) -> Tensor | None:
    """What is added to the scores of all keys, `[B or 1, 1, G * q or 1, n + T + k]`; None where all are seen."""
    if ("all", window) not in call.biases:
        each = [(prefix.length, _prefix_bias(site, prefix, call, window, dtype)) for site, prefix in prefixes]
        if call.text_mask is not None:
            each.append((call.text_mask.shape[1], _text_bias(call, window, dtype)))
        each.append((call.own_positions.shape[1], _own_bias(call, window, dtype, written=True)))
        whole = products.joined_bias(each, torch.zeros((), dtype=dtype, device=call.positions.device))
        if whole is not None and whole.shape[2] > 1:  # the same for every group of queries
            whole = whole[:, :, None].expand(-1, -1, groups, -1, -1).flatten(2, 3)
        call.biases["all", window] = whole
    return call.biases["all", window]


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
        call.biases["own", window] = None if seen is None else _hidden(seen, dtype)
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
        call.biases["text", window] = _hidden(seen, dtype)
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
        call.biases[site, window] = None if seen is None else _hidden(seen, dtype)
    return call.biases[site, window]


def _within(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """`[B, q]` and `[B, k]` to `[B, q, k]`: whether a key is less than `window` before a query."""
    return queries[:, :, None] - keys[:, None] < window


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, q, k]` to `[B, 1, q, k]`: the lowest number where a key may not be seen."""
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen[:, None], zero, torch.finfo(dtype).min)


def register() -> None:
    """Make `attn_implementation="preface-causal"` known to Transformers; masks are made here, from positions."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)

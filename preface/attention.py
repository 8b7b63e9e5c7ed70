"""The one attention function that reads an injection.

Transformers lets a program register an attention function by name and hands unknown keyword arguments of `forward`
down to it. Prepending the injection's keys and values here gives every T5-family model prefix tuning at every site:
no fork of the model's code, no key-value cache, gradient checkpointing and `torch.compile` intact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.t5.modeling_t5 import T5Attention

from preface.injection import Injection, KeyValues, Site, select

NAME = "preface"
"""The name under which the function is registered: `attn_implementation="preface"`."""


def site_of(module: T5Attention) -> Site:
    """Which of T5's three attention sites a module is."""
    if not module.is_decoder:
        return "encoder"
    return "decoder" if module.is_causal else "cross"


def attention(
    module: Any,
    query: Tensor,  # [B, H, q, d_kv]
    key: Tensor,  # [B, H, k, d_kv]
    value: Tensor,  # [B, H, k, d_kv]
    attention_mask: Tensor | None,  # [B, 1, 1 or q, k], True where a key may be seen
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,  # [1, H, q, k]
    injection: Injection | None = None,
    query_positions: Tensor | None = None,  # [q] or [B, q]
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of T5 with the keys and values of `injection` before its own; returns `[B, q, H, d_kv]`.

    `query_positions` is the place of each query in its sequence, needed only where several sequences lie packed side
    by side (`preface.score`), or where a sequence begins with padding.
    """
    bias = _bias(attention_mask, position_bias, query)  # [B or 1, H or 1, 1 or q, k] or None
    prefix = injection.site(site_of(module)) if injection is not None else None
    if injection is not None and prefix is not None:
        rows = injection.rows
        prompts = injection.size if rows is None else len(rows)
        if prompts != len(query):  # beam search puts the beams of a row side by side
            rows = torch.arange(prompts, device=query.device) if rows is None else rows
            rows = rows.repeat_interleave(len(query) // prompts)
        if query_positions is None:
            # with a cache, the queries are the last q of k tokens
            query_positions = torch.arange(key.shape[2] - query.shape[2], key.shape[2], device=query.device)
        before = _prefix_bias(prefix, rows, module.preceding_bias, query_positions, query.dtype)
        layer = module.layer_idx
        key = torch.cat([select(prefix.keys[layer].to(key.dtype), rows), key], dim=2)
        value = torch.cat([select(prefix.values[layer].to(value.dtype), rows), value], dim=2)
        if before is not None or bias is not None:
            shape = (len(query), query.shape[1], query.shape[2])
            before = query.new_zeros(1, 1, 1, prefix.length) if before is None else before
            bias = query.new_zeros(1, 1, 1, key.shape[2] - prefix.length) if bias is None else bias
            bias = torch.cat([before.expand(*shape, -1), bias.expand(*shape, -1)], dim=-1)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling
    )  # [B, H, q, d_kv]
    return output.transpose(1, 2).contiguous(), None


def _bias(mask: Tensor | None, position_bias: Tensor | None, query: Tensor) -> Tensor | None:
    """Position bias where a key may be seen, the lowest number of the type where not."""
    if position_bias is not None:
        position_bias = position_bias.detach()  # frozen; checkpointing marks it otherwise, and slows the kernel
    if mask is None:
        return position_bias
    lowest = torch.finfo(query.dtype).min
    if position_bias is None:
        return query.new_zeros(()).masked_fill(~mask, lowest)
    return torch.where(mask, position_bias, lowest)


def _prefix_bias(
    prefix: KeyValues, rows: Tensor | None, table: Tensor | None, query_positions: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """The bias of the prefix's keys, `[B or 1, H or 1, q or 1, n]`; None where it is nothing but zeros."""
    bias = None
    if table is not None:  # [H, distances]
        places = torch.arange(prefix.length, 0, -1, device=table.device)  # the last key stands 1 before token 0
        distance = (query_positions[..., None] + places).clamp(0, table.shape[1] - 1)  # [q, n] or [B, q, n]
        bias = table[:, distance].to(dtype)  # [H, q, n] or [H, B, q, n]
        bias = bias[None] if query_positions.dim() == 1 else bias.transpose(0, 1)  # [1 or B, H, q, n]
        if prefix.relative is not None:
            bias = bias * select(prefix.relative, rows)[:, None, None, None].to(dtype)
    if prefix.mask is not None:
        seen = select(prefix.mask, rows)[:, None, None, :]  # [B, 1, 1, n]
        lowest = torch.finfo(dtype).min
        bias = torch.where(seen, 0.0 if bias is None else bias, lowest).to(dtype)
    return bias


def preceding_bias(attention: T5Attention) -> Tensor:
    """T5's learned bias for a key that stands `distance` tokens before the query, `[H, max_distance + 1]`.

    Beyond `relative_attention_max_distance` all distances share one bucket, so the last column serves them all.
    """
    weight = attention.relative_attention_bias.weight  # [buckets, H]
    distances = torch.arange(attention.relative_attention_max_distance + 1, device=weight.device)
    buckets = attention._relative_position_bucket(
        -distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return weight.detach()[buckets].T.contiguous()


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' boolean mask; a causal one is never left to `is_causal`, which would hide the prefix."""
    kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **kwargs)


def register() -> None:
    """Make `attn_implementation="preface"` known to Transformers."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)

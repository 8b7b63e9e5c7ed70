"""T5's attention, which reads prompts: one function for self-attention, one module for cross-attention.

Transformers lets a program register an attention function by name and hands unknown keyword arguments of `forward`
down to it. Reading the prompts' keys and values here gives every T5-family model prefix tuning at every site:
no fork of the model's code, no key-value cache, gradient checkpointing and `torch.compile` intact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from preface.backbones import products
from preface.backbones.frozen import FrozenLinear, refuse_gradient
from preface.backbones.products import Keys, Projected, SideBySide
from preface.prompts import Prefix, Prompts

NAME = "preface"
"""The name under which the function is registered: `attn_implementation="preface"`."""
Biases = dict[str, Tensor | None]
"""What is added to the scores at each site: built by the layers that have a bias, T5's first, read by the others."""


def attention(
    module: Any,
    query: Tensor,  # [B, H, q, d_kv]
    key: Tensor,  # [B, H, k, d_kv]
    value: Tensor,  # [B, H, k, d_kv]
    attention_mask: Tensor | None,  # [B, 1, 1 or q, k], True where a key may be seen
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,  # [1, H, q, k]
    prompts: Prompts | None = None,
    rows: Tensor | None = None,  # [B]
    query_positions: Tensor | None = None,  # [q] or [B, q]
    key_positions: Tensor | None = None,  # [B, k]
    written: Sequence[tuple[Tensor, Tensor]] | None = None,  # in each layer [B, H, k - q, d_kv]
    made: list[tuple[Tensor, Tensor]] | None = None,
    biases: Biases | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Self-attention of T5 with the keys and values of each row's prompt before its own; returns `[B, q, H, d_kv]`.

    `query_positions` is the position of each query in its sequence, needed only where several sequences are packed
    into one (`tree`), or where a sequence begins with padding; `key_positions` where keys stand before the queries:
    those of `written`. `made` takes each layer's keys and values. Without `biases` each layer builds its own.
    """
    if written is not None:
        before_it = written[module.layer_idx]
        key, value = torch.cat([before_it[0], key], dim=2), torch.cat([before_it[1], value], dim=2)
    if made is not None:
        made.append((key, value))
    site = "decoder" if module.is_decoder else "encoder"
    prefix = prompts.at(site, module.layer_idx, query, rows) if prompts is not None else None
    biases = {} if biases is None else biases
    if site not in biases or module.has_relative_attention_bias:
        table = module.preceding_bias
        if site == "decoder" and query_positions is not None:  # a tree of words: places are no positions
            keys_at = query_positions if key_positions is None else key_positions
            distance = query_positions[..., :, None] - keys_at[..., None, :]
            position_bias = _by_row(_at_distance(table, distance), query_positions).to(query.dtype)  # [1 or B, H, q, q]
        if prefix is not None and query_positions is None:
            # with a cache, the queries are the last q of k tokens
            query_positions = torch.arange(key.shape[2] - query.shape[2], key.shape[2], device=query.device)
        before = None if prefix is None else _prefix_bias(prefix, table, query_positions, query.dtype)
        biases[site] = _bias(before, prefix, _own_bias(attention_mask, position_bias, query.dtype), key)
    if query.device.type == "cpu" and key.shape[2] <= products.SHORT and dropout == 0:
        query = query if scaling in (None, 1.0) else query * scaling
        output = products.attention(query, _kinds(prefix, SideBySide(key, value)), biases[site])  # [B, H, q, d_kv]
    else:
        output = _fused(query, key, value, prefix, biases[site], dropout, scaling)
    return output.transpose(1, 2), None


def _fused(
    query: Tensor, key: Tensor, value: Tensor, prefix: Prefix | None, bias: Tensor | None, dropout: float, scaling: Any
) -> Tensor:
    """Attention by torch's own kernel; `[B, H, q, d_kv]`."""
    if prefix is not None:
        keys, values = prefix.by_row()
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0 if scaling is None else scaling
    )


class CrossAttention(nn.Module):
    """T5's cross-attention, in the place of Transformers' own module and with its weights.

    A decoder that says a word of two pieces after an input of a hundred tokens projects two vectors a layer here
    instead of a hundred, and holds no keys and values of the input (`products.Projected`).
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = original.q, original.k, original.v, original.o
        self.k.keeps_plain = self.v.keeps_plain = True
        self.heads, self.d_kv = original.n_heads, original.key_value_proj_dim
        self.layer_idx, self.dropout = original.layer_idx, original.dropout
        self.train(original.training)

    def forward(
        self,
        hidden_states: Tensor,  # [B, S, d]
        mask: Tensor | None = None,  # [B, 1, 1, m]
        key_value_states: Tensor | None = None,  # [B, m, d]
        prompts: Prompts | None = None,
        rows: Tensor | None = None,  # [B]
        biases: Biases | None = None,
        **_: Any,
    ) -> tuple[Tensor, None, None]:
        """`[B, S, d]`, and two things that Transformers expects and nobody needs."""
        assert key_value_states is not None
        states = key_value_states
        query = self.q(hidden_states).unflatten(-1, (self.heads, self.d_kv)).transpose(1, 2)  # [B, H, S, d_kv]
        prefix = prompts.at("cross", self.layer_idx, query, rows) if prompts is not None else None
        biases = {} if biases is None else biases
        if "cross" not in biases:  # T5's cross-attention knows no positions
            before = None if prefix is None else _prefix_bias(prefix, None, None, query.dtype)
            biases["cross"] = _bias(before, prefix, _own_bias(mask, None, query.dtype), states[:, None])
        dropout = self.dropout if self.training else 0.0
        few, many = query.shape[2], states.shape[1]
        # operations: few · d · H (e + m) against m · d · H · e
        is_plain = isinstance(self.k, FrozenLinear)  # and not held in fewer bits
        if few * (1 + many / self.d_kv) < many and dropout == 0 and is_plain:
            refuse_gradient(self.k.weight)  # these two are no layers here
            refuse_gradient(self.v.weight)
            own = Projected(states, self.k.weight, self.v.weight)
            output = products.attention(query, _kinds(prefix, own), biases["cross"])
        else:
            key, value = (
                project(states).unflatten(-1, (self.heads, self.d_kv)).transpose(1, 2) for project in (self.k, self.v)
            )  # [B, H, m, d_kv]
            output = _fused(query, key, value, prefix, biases["cross"], dropout, 1.0)
        return self.o(output.transpose(1, 2).flatten(2)), None, None


def _kinds(prefix: Prefix | None, own: Keys) -> list[Keys]:
    return [own] if prefix is None else [SideBySide(prefix.keys, prefix.values), own]


def _own_bias(mask: Tensor | None, position_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Position bias where a key may be seen, the lowest number of the type where not."""
    if position_bias is not None:
        position_bias = position_bias.detach()  # frozen; checkpointing marks it otherwise, and slows the kernel
    if mask is None:
        return position_bias
    seen = 0.0 if position_bias is None else position_bias
    return torch.where(mask, seen, torch.finfo(dtype).min).to(dtype)


def _bias(before: Tensor | None, prefix: Prefix | None, own: Tensor | None, key: Tensor) -> Tensor | None:
    """The biases of n prefix keys and of the k others, `key` `[B, ·, k, ·]`, in one tensor, where there are any."""
    return own if prefix is None else products.joined_bias([(prefix.length, before), (key.shape[2], own)], key)


def _at_distance(table: Tensor, distance: Tensor) -> Tensor:
    """T5's bias of keys so many tokens before their queries: `[H, distances]` and `[...]` to `[H, ...]`."""
    return table[:, distance.clamp(0, table.shape[1] - 1)]


def _by_row(bias: Tensor, query_positions: Tensor) -> Tensor:
    """`[H, q, k]` to `[1, H, q, k]`, where all rows have the same positions, or `[H, B, q, k]` to `[B, H, q, k]`."""
    return bias[None] if query_positions.dim() == 1 else bias.transpose(0, 1)


def _prefix_bias(
    prefix: Prefix, table: Tensor | None, query_positions: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """The bias of the prefix's keys, `[B or 1, H or 1, q or 1, n]`; None where it is nothing but zeros."""
    bias = None
    if table is not None and query_positions is not None:  # [H, distances]
        places = torch.arange(prefix.length, 0, -1, device=table.device)  # the last key stands 1 before token 0
        distance = query_positions[..., None] + places  # [q, n] or [B, q, n]
        bias = _at_distance(table, distance).to(dtype)  # [H, q, n] or [H, B, q, n]
        bias = _by_row(bias, query_positions)  # [1 or B, H, q, n]
        if prefix.relative is not None:
            bias = bias * prefix.of_rows(prefix.relative)[:, None, None, None].to(dtype)
    if prefix.mask is not None:
        seen = prefix.of_rows(prefix.mask)[:, None, None, :]  # [B, 1, 1, n]
        bias = torch.where(seen, 0.0 if bias is None else bias, torch.finfo(dtype).min).to(dtype)
    return bias


def preceding_bias(attention: Any) -> Tensor:
    """T5's learned bias for a key that stands `distance` tokens before the query, `[H, max_distance + 1]`.

    Beyond `relative_attention_max_distance` all distances share one bucket, so the last column serves them all.
    """
    farthest = attention.relative_attention_max_distance
    bias: Tensor = attention.compute_bias(1, farthest + 1, past_seen_tokens=farthest)  # [1, H, 1, distances], falling
    return bias.detach()[0, :, 0].flip(-1).contiguous()


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' boolean mask; a causal one is never left to `is_causal`, which would hide the prefix."""
    kwargs["allow_is_causal_skip"] = False
    if torch.device(kwargs.get("device", "cpu")).type != "cpu":
        kwargs["allow_is_bidirectional_skip"] = False  # to ask a GPU whether all is seen is to wait for it
    return sdpa_mask(*args, **kwargs)


def register() -> None:
    """Make `attn_implementation="preface"` known to Transformers."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)

"""An injection is all that a frozen model knows of a soft prompt.

Two carriers: *input embeddings* placed before the tokens of the encoder, and *keys and values* placed before the
keys and values of an attention site. Every method of `preface.methods` makes one of these; the backbone takes one
and never asks which method made it. Prompts of one shape lie stacked, `[P, ...]`; `rows` names the prompt that each
example of a batch wears, so one batch may train a population, vote as an ensemble, or serve many tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

Site = Literal["encoder", "decoder", "cross"]
"""Encoder self-attention, decoder self-attention, decoder cross-attention."""
SITES: tuple[Site, ...] = get_args(Site)


@dataclass(frozen=True)
class KeyValues:
    """Keys and values for one attention site of P prompts, n to a prompt."""

    keys: tuple[Tensor, ...]
    """One tensor a layer, each `[P, H, n, d_kv]`."""
    values: tuple[Tensor, ...]
    """As `keys`."""
    mask: Tensor | None = None
    """`[P, n]`, False where a shorter prompt was padded; None: every key is real."""
    relative: Tensor | None = None
    """`[P]`, False for prompts whose keys get no position bias; None: all stand at the positions just before the
    first token, as keys in a cache would."""

    @classmethod
    def from_stacked(cls, keys: Tensor, values: Tensor, **rest: Tensor | None) -> KeyValues:
        """From keys and values of all layers, each `[P, L, H, n, d_kv]`."""
        # unbind once: selecting a layer at a time would make autograd fill one full-size gradient a layer
        return cls(keys.unbind(1), values.unbind(1), **rest)

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]


@dataclass(frozen=True)
class Injection:
    """What P soft prompts put into a frozen model, and which of them each row of a batch wears."""

    embeddings: Tensor | None = None
    """Input embeddings, `[P, n, d_model]`."""
    embeddings_mask: Tensor | None = None
    """`[P, n]`, False where a shorter prompt was padded; None: all real."""
    encoder: KeyValues | None = None
    decoder: KeyValues | None = None
    cross: KeyValues | None = None
    rows: Tensor | None = None
    """`[B]`, the prompt of each row; None: each prompt is worn by B / P rows, which lie side by side."""

    @property
    def size(self) -> int:
        """P, the number of prompts; 0 for the empty injection."""
        if self.embeddings is not None:
            return self.embeddings.shape[0]
        return next((kv.keys[0].shape[0] for site in SITES if (kv := self.site(site))), 0)

    @property
    def encoder_length(self) -> int:
        """Input embeddings and encoder keys that each row adds to its tokens."""
        embeddings = 0 if self.embeddings is None else self.embeddings.shape[1]
        return embeddings + (0 if self.encoder is None else self.encoder.length)

    @property
    def leaves_encoder(self) -> bool:
        """True where what the encoder says of an input is the same under every prompt."""
        return self.embeddings is None and self.encoder is None

    def site(self, site: Site) -> KeyValues | None:
        kv: KeyValues | None = getattr(self, site)
        return kv

    def worn(self, site: Site, layer: int, query: Tensor) -> Worn | None:
        """Keys and values of one layer, as the rows of `query` `[B, ...]` wear them; None: it has none there."""
        kv = self.site(site)
        if kv is None:
            return None
        keys, values = kv.keys[layer], kv.values[layer]
        rows = self.rows
        if rows is not None:
            if len(rows) != len(query):  # beam search puts the beams of a row side by side
                rows = rows.repeat_interleave(len(query) // len(rows))
            # before they are rounded: the gradients of a prompt's rows are summed in its own precision
            keys, values = keys.index_select(0, rows), values.index_select(0, rows)
        return Worn(kv, keys.to(query.dtype), values.to(query.dtype), rows, len(query))

    def members(self, indices: Sequence[int] | Tensor) -> Injection:
        """Some of the prompts, in that order."""
        if not isinstance(indices, Tensor) and list(indices) == list(range(self.size)):
            return self
        chosen = torch.as_tensor(indices)
        return self._map(lambda item: None if item is None else item.index_select(0, chosen.to(item.device)))

    def on(self, rows: Tensor) -> Injection:
        """The same prompts, worn by `rows` `[B]`."""
        return replace(self, rows=rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> Injection:
        """The same injection on a device, keys, values and embeddings in `dtype`."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return replace(self._map(cast), rows=cast(self.rows))

    def _map(self, change: Callable[[Tensor | None], Tensor | None]) -> Injection:
        """The injection with every tensor of its prompts changed."""

        def site(kv: KeyValues | None) -> KeyValues | None:
            if kv is None:
                return None
            keys, values = (tuple(map(change, part)) for part in (kv.keys, kv.values))
            return KeyValues(keys, values, change(kv.mask), change(kv.relative))  # type: ignore[arg-type]

        embeddings, mask = change(self.embeddings), change(self.embeddings_mask)
        return Injection(embeddings, mask, site(self.encoder), site(self.decoder), site(self.cross), self.rows)


@dataclass(frozen=True)
class Worn:
    """One layer's prefix as the rows of a batch wear it."""

    prefix: KeyValues
    """Of all layers, and what they share."""
    keys: Tensor
    """`[P, H, n, d_kv]`, each prompt's worn by B / P rows side by side; or each row's own, `[B, H, n, d_kv]`."""
    values: Tensor
    """As `keys`."""
    rows: Tensor | None
    """`[B]`, the prompt of each row; None: B / P rows of each, side by side."""
    size: int
    """B."""

    def spread(self, tensor: Tensor) -> Tensor:
        """What belongs to the prompts, `[P, ...]`, as each row's own, `[B, ...]`."""
        return spread(tensor, self.rows, self.size)

    def by_row(self) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H, n, d_kv]`."""
        if self.rows is not None:
            return self.keys, self.values
        return self.spread(self.keys), self.spread(self.values)


def spread(tensor: Tensor, rows: Tensor | None, size: int) -> Tensor:
    """`[P, ...]` to `[B, ...]`: each row's own; rows None: the prompts side by side, `size` rows in all."""
    if rows is not None:
        return tensor.index_select(0, rows)
    prompts = len(tensor)
    return tensor[:, None].expand(prompts, size // prompts, *tensor.shape[1:]).reshape(size, *tensor.shape[1:])


def join(injections: Sequence[Injection]) -> Injection:
    """Stack prompts of any methods, lengths and sites into one injection of `sum(P)` prompts.

    Shorter prompts are padded on the left and masked, which is exact: T5's positions are relative, and the last
    item of each prompt still stands just before the first token. A prompt without a carrier is masked there whole.
    """
    embeddings = [injection.embeddings for injection in injections]
    joined, mask = None, None
    if any(item is not None for item in embeddings):
        like = next(item for item in embeddings if item is not None)
        length = max(item.shape[1] for item in embeddings if item is not None)
        filled = [
            like.new_zeros(injection.size, 0, like.shape[2]) if item is None else item
            for injection, item in zip(injections, embeddings, strict=True)
        ]
        joined = torch.cat([pad(item, (0, 0, length - item.shape[1], 0)) for item in filled])
        masks = [_real(item, injection.embeddings_mask) for item, injection in zip(filled, injections, strict=True)]
        mask = _mask(masks, length)
    encoder, decoder, cross = (_join_site([(i.site(site), i.size) for i in injections]) for site in SITES)
    return Injection(joined, mask, encoder, decoder, cross)


def _join_site(parts: list[tuple[KeyValues | None, int]]) -> KeyValues | None:
    present = [kv for kv, _ in parts if kv is not None]
    if not present:
        return None
    like = present[0].keys[0]  # [P, H, n, d_kv]
    length = max(kv.length for kv in present)
    empty = [like.new_zeros(0, like.shape[1], 0, like.shape[3])] * len(present[0].keys)

    def stack(layers: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in layer])
            for layer in zip(*layers, strict=True)
        )

    def blank(size: int) -> tuple[Tensor, ...]:
        return tuple(layer.new_zeros(size, *layer.shape[1:]) for layer in empty)

    keys = stack([kv.keys if kv else blank(size) for kv, size in parts])
    values = stack([kv.values if kv else blank(size) for kv, size in parts])
    masks = [_real(kv.keys[0][:, 0], kv.mask) if kv else like.new_zeros(size, 0).bool() for kv, size in parts]
    relative = [kv.relative if kv and kv.relative is not None else like.new_ones(size).bool() for kv, size in parts]
    return KeyValues(keys, values, _mask(masks, length), torch.cat(relative))


def _real(items: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of `items` `[P, n, ...]`, made if there is none."""
    return torch.ones(items.shape[:2], dtype=torch.bool, device=items.device) if mask is None else mask


def _mask(masks: list[Tensor], length: int) -> Tensor:
    return torch.cat([pad(mask, (length - mask.shape[1], 0), value=False) for mask in masks])

"""Soft prompts are named tensors: the same names in memory and on disk.

A name says what carries a prompt into a frozen model, its *carrier*: `embeddings` stand before the embedded tokens of a
text, and `SITE.keys` and `SITE.values` before the keys and values of an attention site. Prompts of one backbone lie
stacked, `[P, ...]`, whatever method made them; `rows` says, wherever a model is called, which of them each row of a
batch has. So one batch may train a population, vote as an ensemble, or serve many tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

LABELS = "labels"
"""The carrier that stands in the place of label words: nothing reads it, it is what answers are compared with."""
READ_WITH = ("embeddings", "encoder", "input")
"""Carriers that a text is read with: what a model knows of the text depends on them."""


class Prompts:
    """P soft prompts.

    Tensors by name, of which any may be missing:

    - `embeddings`: input embeddings, `[P, n, d]`;
    - `after`: input embeddings between a text and its answer, `[P, n, d]` (decoder-only models);
    - `embeddings.added`, `after.added`: what is added to the states of those embeddings before each layer but the
      first, `[P, L - 1, n, d]`;
    - `labels`: a vector for each of C labels in the place of its word, `[P, C, d]`;
    - `SITE.keys`, `SITE.values`: of an attention site, `[P, L, H, n, d_head]`;
    - `embeddings.mask`, `after.mask`, `SITE.mask`: `[P, n]`, False where a shorter prompt was padded; missing:
      all are real;
    - `SITE.relative`: `[P]`, False for prompts whose keys get no position bias; missing: all stand at the positions
      just before the first token, as keys in a cache would.

    No tensors at all: P times the bare model.
    """

    def __init__(self, tensors: Mapping[str, Tensor], size: int | None = None) -> None:
        """`size` is P, needed where there are no tensors."""
        self.tensors = dict(tensors)
        self.size: int = len(next(iter(self.tensors.values()))) if size is None else size

    @classmethod
    def bare(cls, size: int = 1) -> Prompts:
        """The bare model, `size` times."""
        return cls({}, size)

    @classmethod
    def one(cls, tensors: Mapping[str, Tensor]) -> Prompts:
        """A single prompt from its own tensors, without the P in front: the inverse of `tensors_of`."""
        return cls({name: tensor[None] for name, tensor in tensors.items()}, 1)

    def tensors_of(self, index: int) -> dict[str, Tensor]:
        """The tensors of one prompt, without the P in front and without padding, on the CPU."""
        own = {}
        for name, tensor in self.tensors.items():
            carrier, _, part = name.partition(".")
            mask = self.tensors.get(f"{carrier}.mask")
            if part == "mask" or (mask is not None and not mask[index].any()):
                continue
            one = tensor[index].detach().cpu()
            if mask is not None and part != "relative":
                one = one[..., mask[index].cpu(), :]
            own[name] = one.clone()  # a view would keep all prompts, and safetensors refuses to write it
        return own

    @property
    def embeddings(self) -> Tensor | None:
        """Input embeddings, `[P, n, d]`."""
        return self.tensors.get("embeddings")

    @property
    def after(self) -> Tensor | None:
        """Input embeddings between a text and its answer, `[P, n, d]`."""
        return self.tensors.get("after")

    @property
    def labels(self) -> Tensor | None:
        """A vector for each label, `[P, C, d]`."""
        return self.tensors.get(LABELS)

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """The attention sites that have keys and values."""
        return tuple(name.removesuffix(".keys") for name in self.tensors if name.endswith(".keys"))

    @cached_property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def leaves_reading(self) -> bool:
        """True where what a model reads in a text is the same under every prompt."""
        return not any(name.partition(".")[0] in READ_WITH for name in self.tensors)

    @property
    def reading_length(self) -> int:
        """Input embeddings and keys that reading each text has to do with, beside its tokens."""
        embeddings = 0 if self.embeddings is None else self.embeddings.shape[1]
        return embeddings + sum(self.length(site) for site in self.sites if site in READ_WITH)

    @property
    def answering_length(self) -> int:
        """Input embeddings that each answer has to do with, beside its own tokens."""
        return 0 if self.after is None else self.after.shape[1]

    def length(self, site: str) -> int:
        """n, the keys at a site."""
        return self.tensors[f"{site}.keys"].shape[3]

    def select(self, indices: Sequence[int] | Tensor) -> Prompts:
        """Some of the prompts, in that order."""
        if not isinstance(indices, Tensor) and list(indices) == list(range(self.size)):
            return self
        chosen = torch.as_tensor(indices)
        return self._map(lambda item: item.index_select(0, chosen.to(item.device)), len(chosen))

    def to(self, device: torch.device, dtype: torch.dtype) -> Prompts:
        """The same prompts on a device, their numbers in `dtype`."""
        return self._map(lambda item: item.to(device, dtype if item.is_floating_point() else None), self.size)

    def _map(self, change: Callable[[Tensor], Tensor], size: int) -> Prompts:
        return Prompts({name: change(tensor) for name, tensor in self.tensors.items()}, size)

    @cached_property
    def _layers(self) -> dict[str, tuple[Tensor, ...]]:
        """What is of a layer each. Unbound once: one layer at a time, autograd would fill a full gradient for each."""
        names = (name for name in self.tensors if name.endswith((".keys", ".values", ".added")))
        return {name: self.tensors[name].unbind(1) for name in names}

    def at(self, site: str, layer: int, query: Tensor, rows: Tensor | None) -> Prefix | None:
        """Keys and values of a site's layer for the queries `[B, ...]` of a batch; None: there are none.

        `rows` `[B]` is the prompt of each row; None: B / P rows of each lie side by side. A beam search has the beams
        of a row side by side.
        """
        if f"{site}.keys" not in self.tensors:
            return None
        keys, values = self._layers[f"{site}.keys"][layer], self._layers[f"{site}.values"][layer]
        if rows is not None:
            if len(rows) != len(query):
                rows = rows.repeat_interleave(len(query) // len(rows))
            # before they are rounded: the gradients of a prompt's rows are summed in its own precision
            keys, values = keys.index_select(0, rows), values.index_select(0, rows)
        mask, relative = self.tensors.get(f"{site}.mask"), self.tensors.get(f"{site}.relative")
        return Prefix(keys.to(query.dtype), values.to(query.dtype), mask, relative, rows, len(query))

    def added(self, carrier: str, layer: int, states: Tensor, rows: Tensor | None, start: int = 0) -> Tensor | None:
        """What is added to the first m of the states `[B, q, d]` before a layer, `[B, m, d]`; None: nothing.

        Args:
            carrier: whose embeddings the states' sequence begins with.
            layer: counted from 0, which nothing is added before.
            rows: the prompt of each row, `[B]`; None: B / P rows of each lie side by side.
            start: how many of the sequence stand before these states.
        """
        if f"{carrier}.added" not in self.tensors:
            return None
        added = self._layers[f"{carrier}.added"][layer - 1][:, start : start + states.shape[1]]  # [P, m, d]
        return of_rows(added, rows, len(states)).to(states.dtype) if added.shape[1] else None


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one layer for a batch of B rows."""

    keys: Tensor
    """`[P, H, n, d_head]`, B / P rows of each prompt side by side; or each row's own, `[B, H, n, d_head]`."""
    values: Tensor
    """As `keys`."""
    mask: Tensor | None
    """`[P, n]`."""
    relative: Tensor | None
    """`[P]`."""
    rows: Tensor | None
    """`[B]`, the prompt of each row; None: side by side."""
    size: int
    """B."""

    @property
    def length(self) -> int:
        """n."""
        return self.keys.shape[2]

    def of_rows(self, tensor: Tensor) -> Tensor:
        """What belongs to the prompts, `[P, ...]`, as each row's own, `[B, ...]`."""
        return of_rows(tensor, self.rows, self.size)

    def by_row(self) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H, n, d_head]`."""
        if self.rows is not None:
            return self.keys, self.values
        return self.of_rows(self.keys), self.of_rows(self.values)


def of_rows(tensor: Tensor, rows: Tensor | None, size: int) -> Tensor:
    """`[P, ...]` to `[B, ...]`: each row's own; rows None: the prompts side by side, `size` rows in all."""
    if rows is not None:
        return tensor.index_select(0, rows)
    prompts = len(tensor)
    return tensor[:, None].expand(prompts, size // prompts, *tensor.shape[1:]).reshape(size, *tensor.shape[1:])


def stack(several: Sequence[Prompts]) -> Prompts:
    """Prompts of any methods, lengths and carriers as one; the bare model is one that has no carrier.

    Shorter prompts are padded on the left and masked, which is exact where positions are relative: the last item of
    each prompt still stands just before the first token. A prompt without a carrier is masked there whole; one whose
    carrier has nothing added adds zeros.
    """
    tensors: dict[str, Tensor] = {}
    names = dict.fromkeys(name for prompts in several for name in prompts.tensors)
    for carrier in dict.fromkeys(name.partition(".")[0] for name in names):
        tensors |= _stack_carrier(several, carrier, [name for name in names if name.partition(".")[0] == carrier])
    return Prompts(tensors, sum(prompts.size for prompts in several))


def _stack_carrier(several: Sequence[Prompts], carrier: str, names: Sequence[str]) -> dict[str, Tensor]:
    """One carrier's tensors of all prompts."""
    padded = [name for name in names if not name.endswith((".mask", ".relative"))]
    like = {name: next(p.tensors[name] for p in several if name in p.tensors) for name in padded}
    lengths = [max((p.tensors[name].shape[-2] for name in padded if name in p.tensors), default=0) for p in several]
    length = max(lengths)
    joined = {}
    for name in padded:
        shape = (*like[name].shape[1:-2], 0, like[name].shape[-1])
        parts = [p.tensors[name] if name in p.tensors else like[name].new_zeros(p.size, *shape) for p in several]
        joined[name] = torch.cat([pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts])
    device = like[padded[0]].device
    masks = []
    for prompts, own in zip(several, lengths, strict=True):
        mask = prompts.tensors.get(f"{carrier}.mask", torch.ones(prompts.size, own, dtype=torch.bool, device=device))
        masks.append(pad(mask, (length - mask.shape[1], 0), value=False))
    if not (mask := torch.cat(masks)).all():
        joined[f"{carrier}.mask"] = mask
    if f"{carrier}.relative" in names:
        every = [torch.ones(prompts.size, dtype=torch.bool, device=device) for prompts in several]
        given = [p.tensors.get(f"{carrier}.relative", own) for p, own in zip(several, every, strict=True)]
        joined[f"{carrier}.relative"] = torch.cat(given)
    return joined

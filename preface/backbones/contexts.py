"""Encoder states, computed once.

A prompt that touches only the decoder leaves what the encoder says of an input as it is: the same over epochs, seeds,
learning rates, prompts and looks at a development split. So each input is encoded when it is first wanted, exactly,
and read from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Sequence
from copy import copy
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from filelock import FileLock
from torch import Tensor

from preface.backbones.batching import by_length
from preface.backbones.t5 import Backbone, EncoderStates, send
from preface.prompts import Injection
from preface.terminal.progress import say

BLOCK = 512
"""Tokens that are encoded together on a CPU."""
GPU_BLOCK = 8_192
"""The same on a GPU, which needs many to be busy."""
IN_MEMORY = 2**28
"""Bytes of one data set's states up to which they stay in memory; larger ones are a memory-mapped file, which a later
run finds again."""
ON_DISK = 20 * 2**30
"""Bytes that all files together may take; the longest unused are removed first."""


class Inputs:
    """The tokenised inputs of a frozen model, and what its encoder says of them."""

    def __init__(self, backbone: Backbone, ids: Sequence[Sequence[int]], keep: bool = False) -> None:
        """`keep`: encode each input only once, for all prompts that leave the encoder alone."""
        self.backbone, self.ids = backbone, ids
        self.lengths = [len(item) for item in ids]
        self.kept = kept_states(backbone, ids) if keep and ids else None

    @classmethod
    def of(cls, backbone: Backbone, ids: Inputs | Sequence[Sequence[int]]) -> Inputs:
        """Inputs as they are, or made of token ids."""
        return ids if isinstance(ids, Inputs) else cls(backbone, ids)

    def __len__(self) -> int:
        return len(self.lengths)

    def repeated(self, times: int) -> Inputs:
        """The same inputs several times over: input i stands at i, i + N, … too."""
        twin = copy(self)
        twin.lengths = self.lengths * times
        return twin

    def padded(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]` of the inputs at some places."""
        return self.backbone.pad([self.ids[place % len(self.ids)] for place in places])

    def states(self, places: Sequence[int], injection: Injection | None = None) -> EncoderStates:
        """What the decoder reads of the inputs at some places, `[B, n + T, d]`, under the prompts of `injection`."""
        if not (injection is None or injection.leaves_encoder):
            return self.backbone.encode(*self.padded(places), injection)
        indices = [place % len(self.ids) for place in places]
        if self.kept is None:  # what several members read is encoded once even so
            distinct = {index: row for row, index in enumerate(dict.fromkeys(indices))}
            with torch.no_grad():
                states = self.backbone.encode(*self.padded(list(distinct)))
            rows = self.backbone.send(torch.tensor([distinct[index] for index in indices]))
            return EncoderStates(states.hidden[rows], states.mask[rows])
        for block in self.kept.missing(indices):
            with torch.no_grad():
                self.kept.write(block, self.backbone.encode(*self.padded(block)))
        return self.kept.read(indices)


class KeptStates:
    """States of many inputs side by side without padding."""

    def __init__(self, hidden: Tensor, known: Tensor, lengths: Sequence[int], device: torch.device) -> None:
        self.hidden = hidden
        """`[tokens, d]`."""
        self.known = known
        """`[N]`, uint8: 1 where an input has been encoded."""
        self.lengths = torch.tensor(lengths)
        self.starts = torch.tensor([0, *accumulate(lengths)])
        self.device = device
        self.blocks = by_length(lengths, _block(device))
        """Inputs that are encoded together. What a sum comes to depends, in its last bits, on what is computed beside
        it: so the company of an input is always the same, and a resumed run reads what an uninterrupted one does."""
        self.block_of = {index: number for number, block in enumerate(self.blocks) for index in block}

    @property
    def bytes(self) -> int:
        return self.hidden.nbytes

    def missing(self, indices: Sequence[int]) -> list[list[int]]:
        """The blocks that have to be encoded before these inputs can be read."""
        known = self.known[torch.tensor(indices)].tolist()
        numbers = {self.block_of[index] for index, there in zip(indices, known, strict=True) if not there}
        return [self.blocks[number] for number in sorted(numbers)]

    def read(self, indices: Sequence[int]) -> EncoderStates:
        """States and mask `[B, T]` of some inputs, padded on the right."""
        chosen = torch.tensor(indices)
        lengths = self.lengths[chosen]  # [B]
        places = torch.arange(int(lengths.max()))[None]  # [1, T]
        mask = places < lengths[:, None]
        # padding reads the input's own last state: masked, but a number
        rows = self.starts[chosen][:, None] + places.minimum(lengths[:, None] - 1)  # [B, T]
        hidden = self.hidden[send(rows, self.hidden.device)]
        return EncoderStates(send(hidden, self.device), send(mask.long(), self.device))

    def write(self, indices: Sequence[int], states: EncoderStates) -> None:
        """Keep the states of some inputs."""
        for row, index in enumerate(indices):
            length = int(self.lengths[index])
            start = int(self.starts[index])
            self.hidden[start : start + length] = states.hidden[row, :length].to(self.hidden.device)
        self.known[torch.tensor(indices)] = 1  # last, so that an interrupted write is written again


def kept_states(backbone: Backbone, ids: Sequence[Sequence[int]]) -> KeptStates | None:
    """The states of these inputs under this backbone, of an earlier call or run where there are any; None: no room."""
    # all that decides the last bits, beside the backbone itself
    made_by = [backbone.dtype, backbone.device.type, _block(backbone.device)]
    made_by += [version(name) for name in ("preface", "torch", "transformers")]
    digest = hashlib.sha256(repr(made_by).encode())
    for item in ids:
        digest.update(len(item).to_bytes(4, "little"))
        digest.update(array("i", item).tobytes())
    key = digest.hexdigest()
    if key in backbone.kept:
        backbone.kept[key] = found = backbone.kept.pop(key)  # the last used stands last
        return found
    lengths = [len(item) for item in ids]
    shape = (sum(lengths), backbone.shape.d_model)
    size = shape[0] * shape[1] * backbone.dtype.itemsize
    with torch.inference_mode(False):  # what is made in inference mode could not be trained with
        room = _storage(backbone, key, shape, size, len(ids))
    if room is None:
        say(f"encoder states of {size / 2**30:.0f} GB fit neither on disk nor in memory: they are not kept")
        return None
    made = KeptStates(*room, lengths, backbone.device)
    backbone.kept[key] = made
    while sum(item.bytes for item in backbone.kept.values()) > max(4 * IN_MEMORY, size):
        del backbone.kept[next(iter(backbone.kept))]
    return made


def _storage(
    backbone: Backbone, key: str, shape: tuple[int, int], size: int, rows: int
) -> tuple[Tensor, Tensor] | None:
    """Room for the states and for what is known: on the GPU, in memory, or in a file; None where there is none."""
    device = backbone.device
    known = torch.zeros(rows, dtype=torch.uint8)
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 4:
        return torch.empty(shape, dtype=backbone.dtype, device=device), known
    if size > IN_MEMORY:
        try:
            found = _mapped(f"{backbone.exact_fingerprint[:16]}-{key[:32]}", shape, backbone.dtype, rows)
        except (OSError, RuntimeError):  # a folder that takes no files; torch has its own word for it
            found = None
        if found is not None or size > psutil.virtual_memory().available // 2:
            return found
    return torch.empty(shape, dtype=backbone.dtype), known


def _mapped(stem: str, shape: tuple[int, int], dtype: torch.dtype, rows: int) -> tuple[Tensor, Tensor] | None:
    """States and what is known of them as memory-mapped files; None where there is no room."""
    folder = cache_folder() / "encoded"
    folder.mkdir(parents=True, exist_ok=True)
    states, known = folder / f"{stem}.states", folder / f"{stem}.known"
    size = shape[0] * shape[1] * dtype.itemsize
    sizes = {states: size, known: rows}
    with FileLock(folder.with_suffix(".lock")):  # another run may want the same files, or their room
        if not all(path.exists() and path.stat().st_size == expected for path, expected in sizes.items()):
            for path in sizes:  # half of a pair says nothing
                path.unlink(missing_ok=True)
            if not _make_room(folder, size):
                return None
            say(f"encoder states are kept in {folder}: up to {size / 2**30:.1f} GB; PREFACE_CACHE names another folder")
        hidden = torch.from_file(str(states), True, shape[0] * shape[1], dtype=dtype).view(shape)
        made = torch.from_file(str(known), True, rows, dtype=torch.uint8)
        known.touch()  # when it was used last
        return hidden, made


def _block(device: torch.device) -> int:
    return BLOCK if device.type == "cpu" else GPU_BLOCK


def cache_folder() -> Path:
    """Where what can be computed again is kept: PREFACE_CACHE, or `preface` in the user's cache folder."""
    if given := os.environ.get("PREFACE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preface"


def _make_room(folder: Path, size: int) -> bool:
    """Remove the longest unused files until `size` more bytes are allowed; False where they cannot be had."""
    if size > ON_DISK or size > shutil.disk_usage(folder).free // 2:
        return False
    pairs: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        pairs.setdefault(path.stem, []).append(path)
    used = {stem: max(path.stat().st_mtime for path in paths) for stem, paths in pairs.items()}
    taken = {
        stem: sum(path.stat().st_size for path in paths if path.suffix == ".states") for stem, paths in pairs.items()
    }
    for stem in sorted(pairs, key=lambda stem: used[stem]):
        if sum(taken.values()) + size <= ON_DISK:
            break
        for path in pairs[stem]:
            path.unlink(missing_ok=True)
        del taken[stem]
    return True

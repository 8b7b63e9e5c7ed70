"""What was read, kept.

A prompt that only the answer sees leaves reading as it is: the same over epochs, seeds, learning rates, prompts and
evaluations. So each text is read by the model when it is first wanted, and its context is found again from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from weakref import finalize

import psutil
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import pad

from preface.backbones.base import KEEP_CONTEXTS, Backbone, Context, send
from preface.backbones.batching import by_length
from preface.prompts import Prompts
from preface.terminal.progress import say

BLOCK = 512
"""Tokens that are read together on a CPU."""
GPU_BLOCK = 8_192
"""The same on a GPU, which needs many to be busy."""
IN_MEMORY = 2**28
"""Bytes of one data set's states up to which they stay in memory; larger ones are a memory-mapped file, which a later
run finds again."""
SAVE_EVERY = 64
"""Blocks after which a file is made durable: what is lost at most when a machine stops."""
ON_DISK = KEEP_CONTEXTS
"""Bytes that all files together may take; the longest unused are removed first. One that is larger, because
`--keep-contexts` allows it, is there alone."""


class Inputs:
    """The tokenised texts that a backbone reads, and what it has read in them."""

    def __init__(self, backbone: Backbone, ids: Sequence[Sequence[int]], keep: bool = False) -> None:
        """`keep`: read each text only once, for all prompts that leave reading alone."""
        self.backbone, self.ids = backbone, ids
        self.lengths = [len(item) for item in ids]
        self.kept = kept_contexts(backbone, ids) if keep and ids else None

    def __len__(self) -> int:
        return len(self.lengths)

    def repeated(self, times: int) -> Inputs:
        """The same texts several times over: text i stands at i, i + N, … too."""
        twin = copy(self)
        twin.lengths = self.lengths * times
        return twin

    def padded(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]` of the texts at some places."""
        return self.backbone.pad([self.ids[place % len(self.ids)] for place in places])

    def read(self, places: Sequence[int], prompts: Prompts | None = None, rows: Tensor | None = None) -> Context:
        """The contexts of the texts at some places, under their prompts (`Backbone.read`)."""
        if not (prompts is None or prompts.leaves_reading):
            return self.backbone.read(*self.padded(places), prompts, rows)
        indices = [place % len(self.ids) for place in places]
        if self.kept is None:
            return self._anew(indices)
        self.keep(indices)
        has_room = self.kept.has_room[torch.tensor(indices)].tolist()
        if all(has_room):
            return self.kept.read(indices)
        fitting = [index for index, room in zip(indices, has_room, strict=True) if room]
        others = [index for index, room in zip(indices, has_room, strict=True) if not room]
        kept = [self.kept.read(fitting)] if fitting else []
        return _merged([*fitting, *others], [*kept, self._anew(others)], indices)

    def keep(self, indices: Sequence[int]) -> None:
        """Read what is to be kept of these texts and is not there yet."""
        if self.kept is not None:
            for block in self.kept.missing(indices):
                with torch.no_grad():
                    self.kept.write(block, self.backbone.read(*self.padded(block)))

    def _anew(self, indices: Sequence[int]) -> Context:
        """Read now, without gradients; a text that stands there several times is read once."""
        distinct = {index: row for row, index in enumerate(dict.fromkeys(indices))}
        with torch.no_grad():
            context = self.backbone.read(*self.padded(list(distinct)))
        if len(distinct) == len(indices):
            return context
        chosen = self.backbone.send(torch.tensor([distinct[index] for index in indices]))
        return Context(context.states[chosen], context.mask[chosen])


def _merged(held: Sequence[int], contexts: Sequence[Context], wanted: Sequence[int]) -> Context:
    """The contexts of the texts `wanted`, of several that hold those of `held` together, one after the other."""
    length = max(context.mask.shape[1] for context in contexts)
    states = torch.cat([pad(context.states, (0, 0, 0, length - context.states.shape[1])) for context in contexts])
    mask = torch.cat([pad(context.mask, (0, length - context.mask.shape[1])) for context in contexts])
    row_of = {index: row for row, index in enumerate(held)}
    chosen = send(torch.tensor([row_of[index] for index in wanted]), mask.device)
    return Context(states[chosen], mask[chosen])


class KeptContexts:
    """Contexts of many texts side by side without padding, in memory or in a file."""

    def __init__(
        self,
        states: Tensor,
        lengths: Sequence[int],
        device: torch.device,
        files: _Files | None = None,
        has_room: Tensor | None = None,
    ) -> None:
        self.states = states
        """`[tokens, w]`."""
        self.has_room = torch.ones(len(lengths), dtype=torch.bool) if has_room is None else has_room
        """`[N]`, False for the texts that are read anew whenever they are wanted."""
        self.files = files
        """None: in memory."""
        self.known = torch.zeros(len(lengths), dtype=torch.bool) if files is None else files.known(len(lengths))
        """`[N]`, True where a text has been read."""
        self.lengths = torch.tensor(lengths)
        self.starts = torch.tensor([0, *accumulate((self.lengths * self.has_room).tolist())])
        self.device = device
        self.blocks = by_length(lengths, _block(device))
        """Texts that are read together. What a sum comes to depends, in its last bits, on what is computed beside it:
        so each text is always read in the same block, and a resumed run finds what an uninterrupted one does."""
        self.block_of = {index: number for number, block in enumerate(self.blocks) for index in block}
        self.unsaved = 0
        if files is not None:
            finalize(self, files.save, self.known)

    @property
    def bytes(self) -> int:
        return self.states.nbytes

    def missing(self, indices: Sequence[int]) -> list[list[int]]:
        """The blocks that have to be read before these texts' contexts can be had."""
        there = (self.known | ~self.has_room)[torch.tensor(indices)].tolist()
        numbers = {self.block_of[index] for index, is_there in zip(indices, there, strict=True) if not is_there}
        return [self.blocks[number] for number in sorted(numbers)]

    def read(self, indices: Sequence[int]) -> Context:
        """The contexts of some texts, padded on the right."""
        chosen = torch.tensor(indices)
        lengths = self.lengths[chosen]  # [B]
        places = torch.arange(int(lengths.max()))[None]  # [1, T]
        mask = places < lengths[:, None]
        # padding reads the text's own last state: masked, but a number
        rows = self.starts[chosen][:, None] + places.minimum(lengths[:, None] - 1)  # [B, T]
        states = self.states[send(rows, self.states.device)]
        return Context(send(states, self.device), send(mask.long(), self.device))

    def write(self, indices: Sequence[int], context: Context) -> None:
        """Keep the contexts of some texts."""
        for row, index in enumerate(indices):
            length, start = int(self.lengths[index]), int(self.starts[index])
            self.states[start : start + length] = context.states[row, :length].to(self.states.device)
        self.known[torch.tensor(indices)] = True  # last, so that an interrupted write is written again
        self.unsaved += 1
        if self.files is not None and self.unsaved >= SAVE_EVERY:
            self.files.save(self.known)
            self.unsaved = 0


@dataclass(frozen=True)
class _Files:
    """A memory-mapped file of states, and one that says which texts' are there."""

    states: Path
    marks: Path

    def known(self, texts: int) -> Tensor:
        """`[N]`, True where a text's states are in the file."""
        if self.marks.exists() and self.marks.stat().st_size == texts:
            return torch.frombuffer(bytearray(self.marks.read_bytes()), dtype=torch.uint8).bool()
        return torch.zeros(texts, dtype=torch.bool)

    def save(self, known: Tensor) -> None:
        """Say which states are there, once they are: a power loss in between leaves them to be read again."""
        with suppress(OSError), self.states.open("rb") as file:  # a cache that cannot be written is no error
            os.fsync(file.fileno())
            together = known | self.known(len(known))  # another run may keep the same texts
            temporary = self.marks.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(bytes(together.to(torch.uint8).tolist()))
            temporary.replace(self.marks)


def kept_contexts(backbone: Backbone, ids: Sequence[Sequence[int]]) -> KeptContexts | None:
    """The contexts of these texts under this backbone, of an earlier call or run if there are any; None: no room."""
    lengths = [len(item) for item in ids]
    a_token = backbone.state_width * backbone.dtype.itemsize
    has_room = _fitting(lengths, backbone.keep_contexts // a_token, backbone.device)
    tokens = int((torch.tensor(lengths) * has_room).sum())
    key = _key(backbone, ids, tokens)
    if key in backbone.kept:
        backbone.kept[key] = found = backbone.kept.pop(key)  # the last used stands last
        return found
    shape, size = (tokens, backbone.state_width), tokens * a_token
    whole = f"contexts of {len(ids):,} texts take {sum(lengths) * a_token / 2**30:.1f} GB"
    if not tokens:
        say(f"{whole}, and none may be kept: texts are read anew each time")
        return None
    if tokens < sum(lengths):
        say(f"{whole}: {int(has_room.sum()):,} texts are kept, the others read anew each time (--keep-contexts)")
    with torch.inference_mode(False):  # what is made in inference mode could not be trained with
        room = _room(backbone, key, shape, size)
        if room is None:
            say(
                f"{whole}, more than half of what is free in memory, and on the disk of {cache_folder()}: "
                "texts are read anew each time (PREFACE_CACHE names another folder)"
            )
            return None
        made = KeptContexts(room[0], lengths, backbone.device, room[1], has_room)
    backbone.kept[key] = made
    while sum(item.bytes for item in backbone.kept.values()) > max(4 * IN_MEMORY, size):
        del backbone.kept[next(iter(backbone.kept))]
    return made


def _fitting(lengths: Sequence[int], tokens: int, device: torch.device) -> Tensor:
    """`[N]`, which texts are kept where there is room for so many tokens: the blocks that fit, one after the other."""
    fitting = torch.zeros(len(lengths), dtype=torch.bool)
    for block in by_length(lengths, _block(device)):
        size = sum(lengths[index] for index in block)
        if size <= tokens:
            tokens -= size
            fitting[torch.tensor(block)] = True
    return fitting


def _key(backbone: Backbone, ids: Sequence[Sequence[int]], tokens: int) -> str:
    """A name for what is read of these texts: all that decides its last bits, beside the backbone itself."""
    made_by = [backbone.dtype, backbone.device.type, _block(backbone.device), tokens]
    made_by += [version(name) for name in ("preface", "torch", "transformers")]
    digest = hashlib.sha256(repr(made_by).encode())
    for item in ids:
        digest.update(len(item).to_bytes(4, "little"))
        digest.update(array("i", item).tobytes())
    return digest.hexdigest()


def _room(backbone: Backbone, key: str, shape: tuple[int, int], size: int) -> tuple[Tensor, _Files | None] | None:
    """Room for the states: on the GPU, in memory, or in a file; None where there is none."""
    device = backbone.device
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 4:
        return torch.empty(shape, dtype=backbone.dtype, device=device), None
    if size > IN_MEMORY:
        try:
            found = _mapped(f"{backbone.exact_fingerprint[:16]}-{key[:32]}", shape, backbone.dtype)
        except (OSError, RuntimeError):  # a folder that takes no files, a full disk; torch has its own word for it
            found = None
        if found is not None or size > psutil.virtual_memory().available // 2:
            return found
    return torch.empty(shape, dtype=backbone.dtype), None


def _mapped(stem: str, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, _Files] | None:
    """States as a memory-mapped file; None where there is no room."""
    folder = cache_folder() / "contexts"
    folder.mkdir(parents=True, exist_ok=True)
    files = _Files(folder / f"{stem}.states", folder / f"{stem}.known")
    size = shape[0] * shape[1] * dtype.itemsize
    with FileLock(folder.with_suffix(".lock")):  # another run may want the same files, or their room
        if not files.states.exists() or files.states.stat().st_size != size:
            files.marks.unlink(missing_ok=True)
            if not _make_room(folder, size):
                return None
            _reserve(files.states, size)
            say(f"what is read is kept in {folder}: {size / 2**30:.1f} GB; PREFACE_CACHE names another folder")
        states = torch.from_file(str(files.states), True, shape[0] * shape[1], dtype=dtype).view(shape)
        files.states.touch()  # when it was used last
        return states, files


def _reserve(path: Path, size: int) -> None:
    """A file of `size` bytes that the disk has given: a memory map into a hole kills the process when the disk is full.

    Raises OSError where there is no room, and leaves no file.
    """
    with path.open("wb") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
        except OSError:
            path.unlink()
            raise


def _block(device: torch.device) -> int:
    return BLOCK if device.type == "cpu" else GPU_BLOCK


def cache_folder() -> Path:
    """Where what can be computed again is kept: PREFACE_CACHE, or `preface` in the user's cache folder."""
    if given := os.environ.get("PREFACE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preface"


def _make_room(folder: Path, size: int) -> bool:
    """Remove the longest unused files until `size` more bytes are allowed; False where they cannot be had."""
    if size > shutil.disk_usage(folder).free // 2:
        return False
    pairs: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        pairs.setdefault(path.stem, []).append(path)
    used = {stem: max(path.stat().st_mtime for path in paths) for stem, paths in pairs.items()}
    taken = {
        stem: sum(path.stat().st_size for path in paths if path.suffix == ".states") for stem, paths in pairs.items()
    }
    for stem in sorted(pairs, key=lambda stem: used[stem]):
        if sum(taken.values()) + size <= max(ON_DISK, size):
            break
        for path in pairs[stem]:
            path.unlink(missing_ok=True)
        del taken[stem]
    return True

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
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from preface.backbone import Backbone, EncoderStates
from preface.injection import Injection

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
        if self.kept is None or not (injection is None or injection.leaves_encoder):
            return self.backbone.encode(*self.padded(places), injection)
        indices = [place % len(self.ids) for place in places]
        known = self.kept.known[torch.tensor(indices)].tolist()
        if missing := sorted({index for index, there in zip(indices, known, strict=True) if not there}):
            with torch.no_grad():
                self.kept.write(missing, self.backbone.encode(*self.padded(missing)))
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

    @property
    def bytes(self) -> int:
        return self.hidden.nbytes

    def read(self, indices: Sequence[int]) -> EncoderStates:
        """States and mask `[B, T]` of some inputs, padded on the right."""
        chosen = torch.tensor(indices)
        lengths = self.lengths[chosen]  # [B]
        places = torch.arange(int(lengths.max()))[None]  # [1, T]
        mask = places < lengths[:, None]
        # padding reads the input's own last state: masked, but a number
        rows = self.starts[chosen][:, None] + places.minimum(lengths[:, None] - 1)  # [B, T]
        hidden = self.hidden[rows.to(self.hidden.device, non_blocking=True)]
        return EncoderStates(hidden.to(self.device, non_blocking=True), mask.long().to(self.device, non_blocking=True))

    def write(self, indices: Sequence[int], states: EncoderStates) -> None:
        """Keep the states of some inputs."""
        for row, index in enumerate(indices):
            length = int(self.lengths[index])
            start = int(self.starts[index])
            self.hidden[start : start + length] = states.hidden[row, :length].to(self.hidden.device)
        self.known[torch.tensor(indices)] = 1  # last, so that an interrupted write is written again


def kept_states(backbone: Backbone, ids: Sequence[Sequence[int]]) -> KeptStates:
    """The states of these inputs under this backbone: those of an earlier call or run where there are any."""
    digest = hashlib.sha256(f"{backbone.dtype}".encode())
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
        hidden, known = _storage(backbone, key, shape, size, len(ids))
    made = KeptStates(hidden, known, lengths, backbone.device)
    backbone.kept[key] = made
    while sum(item.bytes for item in backbone.kept.values()) > max(4 * IN_MEMORY, size):
        del backbone.kept[next(iter(backbone.kept))]
    return made


def _storage(backbone: Backbone, key: str, shape: tuple[int, int], size: int, rows: int) -> tuple[Tensor, Tensor]:
    """Room for the states and for what is known: on the GPU, in memory, or in a file."""
    device = backbone.device
    known = torch.zeros(rows, dtype=torch.uint8)
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 4:
        return torch.empty(shape, dtype=backbone.dtype, device=device), known
    folder = cache_folder() / "encoded"
    if size <= IN_MEMORY or not _make_room(folder, size, keep=key):
        return torch.empty(shape, dtype=backbone.dtype), known
    path = folder / f"{backbone.exact_fingerprint[:16]}-{key[:32]}"
    hidden = torch.from_file(str(path.with_suffix(".states")), True, shape[0] * shape[1], dtype=backbone.dtype)
    known = torch.from_file(str(path.with_suffix(".known")), True, rows, dtype=torch.uint8)
    path.with_suffix(".known").touch()
    return hidden.view(shape), known


def cache_folder() -> Path:
    """Where what can be computed again is kept: PREFACE_CACHE, or `preface` in the user's cache folder."""
    if given := os.environ.get("PREFACE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preface"


def _make_room(folder: Path, size: int, keep: str) -> bool:
    """Remove the longest unused files until `size` more bytes are allowed; False where they cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("*.known"), key=lambda path: path.stat().st_mtime)
        files = [path for path in files if keep[:32] not in path.name]
        taken = {path: path.with_suffix(".states").stat().st_size for path in files}
        while files and sum(taken[path] for path in files) + size > ON_DISK:
            oldest = files.pop(0)
            oldest.unlink()
            oldest.with_suffix(".states").unlink()
        return size <= ON_DISK and size < shutil.disk_usage(folder).free // 2
    except OSError:
        return False

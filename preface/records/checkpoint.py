"""The state of an unfinished training. Safetensors and JSON, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from preface.errors import UserError
from preface.records.atomic import DamagedError, read_folder, remove, write_folder

KEEP = 2
"""Training checkpoints kept: if the last is damaged, the one before it serves."""


def save_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP
) -> None:
    """Write a training checkpoint `step-000123` into `folder`, and drop all but the newest `keep`."""
    write_folder(folder / f"step-{step:08d}", "state", tensors, state)
    for old in [*sorted(folder.glob("step-*"))[:-keep], *folder.glob(".step-*")]:  # hidden: what a kill has left
        remove(old)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest training checkpoint that is whole, and a line about each newer one that is not; None: none there.

    Those that are not whole are moved aside, lest they be kept in place of whole ones. Raises UserError if there are
    checkpoints but none is whole, OSError if one cannot be read now, which says nothing about what it holds.
    """
    refused = []
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            tensors, state = read_folder(candidate, "state")
        except DamagedError as error:
            aside = _aside(candidate)
            refused.append(f"refused: {error}; it is now {aside.name}")
            continue
        return tensors, state, refused
    if damaged := sorted(path.name for path in folder.glob("damaged-*")):
        raise UserError(f"{folder}: no whole checkpoint left, only {', '.join(damaged)}; start the training anew")
    return None


def _aside(folder: Path) -> Path:
    """Move a damaged checkpoint to a name that is free."""
    names = (folder.with_name(f"damaged-{folder.name}{f'-{n}' if n else ''}") for n in count())
    free = next(name for name in names if not name.exists())
    return folder.rename(free)

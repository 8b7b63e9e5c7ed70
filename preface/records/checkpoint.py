"""A prompt on disk, and the state of an unfinished training. Safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from preface.errors import UserError
from preface.prompts import Prompts

KEEP = 2
"""Training checkpoints kept: if the last is damaged, the one before it serves."""


class DamagedError(Exception):
    """A checkpoint whose files are missing, cut off or altered."""


@dataclass(frozen=True)
class SavedPrompt:
    """A soft prompt read from disk, and what its file says of it."""

    prompts: Prompts
    """A single one."""
    card: dict[str, Any]


def save_prompt(folder: Path, prompts: Prompts, card: Mapping[str, Any], index: int = 0) -> None:
    """Write one of some prompts into `folder` as `prompt.safetensors` and `prompt.json`."""
    _write_folder(folder, "prompt", prompts.tensors_of(index), card)


def load_prompt(folder: str | Path) -> SavedPrompt:
    """Read a prompt: its folder, or a run's (then the run's best). Raises UserError if absent or damaged."""
    folder = Path(folder)
    if not (folder / "prompt.json").exists() and (folder / "prompt" / "prompt.json").exists():
        folder = folder / "prompt"
    if (folder / "run.json").exists() and not (folder / "prompt" / "prompt.json").exists():
        raise UserError(f"{folder}: not finished; `preface train --resume {folder}` goes on")
    if not (folder / "prompt.json").exists():
        raise UserError(f"{folder}: no prompt here; give the folder of a finished run, or one with prompt.json")
    try:
        tensors, card = _read_folder(folder, "prompt")
    except DamagedError as error:
        raise UserError(f"{error}; train it again, or copy it anew") from error
    return SavedPrompt(Prompts.one(tensors), card)


def save_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP
) -> None:
    """Write a training checkpoint `step-000123` into `folder`, and drop all but the newest `keep`."""
    _write_folder(folder / f"step-{step:08d}", "state", tensors, state)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest training checkpoint that is whole, and a line about each newer one that is not; None: none there.

    Raises UserError if there are checkpoints but none is whole.
    """
    refused = []
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            tensors, state = _read_folder(candidate, "state")
        except DamagedError as error:
            refused.append(f"refused: {error}")
            shutil.rmtree(candidate)  # or it would be kept in place of a whole one
            continue
        return tensors, state, refused
    if refused:
        raise UserError(f"{folder}: no whole checkpoint left ({'; '.join(refused)}); start the training anew")
    return None


def _write_folder(folder: Path, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write into a new folder beside, then rename it: a kill at any moment leaves the old one or the new one."""
    blob = save({key: tensor.contiguous() for key, tensor in tensors.items()}, {"format": "pt"})
    body = dict(card)
    text = json.dumps({"sha256": hashlib.sha256(blob).hexdigest(), "card_sha256": _card_hash(body), **body}, indent=1)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for suffix, content in (("safetensors", blob), ("json", text.encode())):
        with (temporary / f"{name}.{suffix}").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        outdated = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(outdated, ignore_errors=True)
        folder.rename(outdated)
        temporary.rename(folder)
        shutil.rmtree(outdated)
    else:
        temporary.rename(folder)


def _read_folder(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors_file, card_file = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        card = json.loads(card_file.read_bytes())
        blob = tensors_file.read_bytes()
        recorded, card_hash = card.pop("sha256"), card.pop("card_sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedError(f"{folder} is not whole ({error.__class__.__name__}: {error})") from error
    if hashlib.sha256(blob).hexdigest() != recorded:
        raise DamagedError(f"{tensors_file} was cut off or altered (its hash is not the recorded one)")
    if _card_hash(card) != card_hash:
        raise DamagedError(f"{card_file} was altered (its hash is not the recorded one)")
    try:
        return load(blob), card
    except SafetensorError as error:
        raise DamagedError(f"{tensors_file} is no safetensors file ({error})") from error


def _card_hash(card: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()

"""Files written whole or not at all: a kill, or a full disk, leaves the old ones as they were."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from preface.errors import UserError, first_line


class DamagedError(Exception):
    """A folder whose files are missing, cut off or altered."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from within, as of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def written_by_others(folder: Path) -> Iterator[None]:
    """Safetensors and tokenizers, which write files of their own accord, have errors of their own for a full disk.

    Raises UserError, one line, in their place.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{folder}: cannot be written ({first_line(error)})") from error


@contextmanager
def replacing(path: Path, lock: AbstractContextManager[object] | None = None) -> Iterator[Path]:
    """A place beside `path` for a new file or folder, which replaces `path` where the block ends without an error.

    What was begun is removed otherwise. `lock` is held while one takes the place of the other. Raises UserError where
    `path` is the current folder, or a folder in whose place a file would be.
    """
    path = Path(os.path.abspath(path))
    if path == Path.cwd():
        raise UserError(f"{path}: is the current folder; name another place, as one below it")
    temporary, outdated = (path.with_name(f".{path.name}.{suffix}") for suffix in (os.getpid(), "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        if not temporary.is_dir():
            check_no_folder(path)
        with lock or nullcontext():
            if path.is_dir():
                remove(outdated)
                path.rename(outdated)
            temporary.replace(path)
        remove(outdated)
    except BaseException:
        if outdated.exists() and not path.exists():
            outdated.rename(path)
        remove(temporary)
        raise


def check_no_folder(path: Path) -> None:
    """Raise UserError where a folder lies in the place of a file that is to be written: it would be lost."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file to write")


def check_replaceable(path: Path, begins: bytes, kind: str) -> None:
    """Raise UserError where a folder lies in the place of a file that is to be written, or a file of another kind,
    perhaps the user's data: one of its own kind `begins` so. An empty file is nobody's loss."""
    check_no_folder(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        there = file.read(len(begins))
    if there and there.lower() != begins.lower():
        raise UserError(f"{path}: is a file that is {kind}, and would be lost; give another --out")


def recover(folder: Path) -> None:
    """Put right what a kill in the middle of `replacing` left of folders in a folder: what was about to be replaced is
    back in its place, and what no living process writes any more is gone. Only folders that hold a prompt are touched.
    """
    for path in folder.glob(".*.*"):
        name, _, suffix = path.name[1:].rpartition(".")
        if path.is_symlink() or not any((path / card).exists() for card in ("prompt.json", "prompt")):
            continue
        if suffix == "old" and name:
            if (folder / name).exists():
                remove(path)
            else:
                path.rename(folder / name)
        elif suffix.isdecimal() and name and not psutil.pid_exists(int(suffix)):
            remove(path)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a kill at any moment, sees the old file or the new one, never half."""
    with naming(path), replacing(path) as temporary:
        _write(temporary, text.encode())


def write_folder(folder: Path, name: str, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write `name.safetensors` and `name.json`, with the hashes of both, as all that the folder holds."""
    blob = save({key: tensor.contiguous() for key, tensor in tensors.items()}, {"format": "pt"})
    hashes = {"sha256": hashlib.sha256(blob).hexdigest(), "card_sha256": _hash(content)}
    with naming(folder), replacing(folder) as temporary:
        temporary.mkdir()
        _write(temporary / f"{name}.safetensors", blob)
        _write(temporary / f"{name}.json", json.dumps({**hashes, **content}, indent=1).encode())


def read_folder(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_folder` wrote. Raises DamagedError if it is not all there, OSError if it cannot be read now."""
    tensors_file, card_file = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        content, blob = json.loads(card_file.read_bytes()), tensors_file.read_bytes()
        recorded, content_hash = content.pop("sha256"), content.pop("card_sha256")
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"{folder} is not whole ({error.__class__.__name__}: {error})") from error
    if hashlib.sha256(blob).hexdigest() != recorded:
        raise DamagedError(f"{tensors_file} was cut off or altered (its hash is not the recorded one)")
    if _hash(content) != content_hash:
        raise DamagedError(f"{card_file} was altered (its hash is not the recorded one)")
    try:
        return load(blob), content
    except SafetensorError as error:
        raise DamagedError(f"{tensors_file} is no safetensors file ({error})") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

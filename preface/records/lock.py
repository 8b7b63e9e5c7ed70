"""One process at a time works in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from preface.errors import UserError

LOCK = ".lock"
"""The file that is locked. It stays; the lock is the operating system's, which a kill ends."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`, which is made if need be. Raises UserError if one is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder}: another process is at work there; wait for it, or give another folder") from error
    try:
        yield
    finally:
        lock.release()

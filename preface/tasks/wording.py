"""How files, names and values stand in messages, which are one line each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

STDIN = "-"


def shown(source: str | Path) -> str:
    """A file's path, or `standard input`."""
    return "standard input" if str(source) == STDIN else str(source)


def brief(text: object) -> str:
    """A value on one line, cut where it becomes too long to read."""
    line = " ".join(str(text).split()).encode(errors="replace").decode()  # half characters cannot be printed
    return line if len(line) <= 200 else line[:199] + "…"


def listed(names: Iterable[object]) -> str:
    """`'a', 'b', 'c'`, or `none`."""
    return brief(", ".join(f"'{name}'" for name in names)) or "none"

"""The command that is at work: none where a call is made in Python, whatever program that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_at_work: ContextVar[tuple[str, ...] | None] = ContextVar("command", default=None)


def command_line() -> tuple[str, ...] | None:
    """The words of the command at work, `preface` first."""
    return _at_work.get()


@contextmanager
def at_work(arguments: Sequence[str]) -> Iterator[None]:
    """Until it is left, `preface` with these arguments is the command at work."""
    before = _at_work.set(("preface", *arguments))
    try:
        yield
    finally:
        _at_work.reset(before)

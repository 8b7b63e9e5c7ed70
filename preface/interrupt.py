"""Stopping long work between two steps, never within one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):  # noqa: N818 — what happened is no error
    """Ctrl-C, or a request to end: everything up to the last step is on disk."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed or SIGTERM came; a second one stops at once."""
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    try:
        before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Stopping long work between two steps, never within one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 1.0
"""Seconds within which two requests count as one."""


class Interrupted(Exception):  # noqa: N818 — what happened is no error
    """Ctrl-C, or a request to end: everything up to the last step is on disk."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed or SIGTERM came; a second one, later, stops at once."""
    pressed: float | None = None

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        # launchers pass on the Ctrl-C that the terminal has sent to all already: that is no second one
        if pressed is not None and time.monotonic() - pressed > PATIENCE:
            raise KeyboardInterrupt
        pressed = pressed or time.monotonic()

    try:
        before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: pressed is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

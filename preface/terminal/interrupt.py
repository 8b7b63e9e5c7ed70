"""Stopping long work between two steps, never within one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 1.0
"""Seconds within which two requests count as one."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a request to end, a terminal that was closed (which Windows lacks)."""


class Interrupted(Exception):  # noqa: N818 — what happened is no error
    """Ctrl-C, or a request to end: everything up to the last step is on disk."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that says whether one of `SIGNALS` has come; a second one, later, stops at once."""
    pressed: float | None = None

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        # launchers pass on the Ctrl-C that the terminal has sent to all already: that is no second one
        if pressed is not None and time.monotonic() - pressed > PATIENCE:
            raise KeyboardInterrupt
        pressed = pressed or time.monotonic()

    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, press)
    except ValueError:  # not in the main thread: signals are somebody else's
        yield lambda: False
        return
    try:
        yield lambda: pressed is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

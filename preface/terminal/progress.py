"""How far long work has come, on standard error: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True)

FIRST_LINE = 10.0
"""Seconds of work before the first plain line: what is done sooner needs none."""
PAUSE = 30.0
LONGEST_PAUSE = 300.0
"""Seconds between two plain lines: at least, and after which a line comes however little was done."""
SHARE = 0.05
"""Of the work, between two plain lines."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f} {task.fields['unit']}/s", style="dim")


@contextmanager
def progress(title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Callable[..., None]]:
    """Show work as it goes on; the yielded function takes how much more is done, and optionally a `note` shown beside.

    Args:
        total: how much there is to do; None: nobody knows.
        unit: what is counted.
        done: how much of it was done before.
    """
    if not sys.stderr.isatty():
        yield _Lines(title, total, unit, done).advance
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total, unit=unit, note="")
        bar.update(task, completed=done)

        def advance(count: float = 1, note: str | None = None) -> None:
            bar.update(task, advance=count)
            if note is not None:
                bar.update(task, note=note)

        yield advance


class _Lines:
    """Progress as plain lines, few enough for a log file."""

    def __init__(self, title: str, total: float | None, unit: str, done: float) -> None:
        self.title, self.total, self.unit, self.note = title, total, unit, ""
        self.done = self.begun_with = self.shown = done
        self.began = time.monotonic()
        self.marks = [(self.began, done)]
        """When how much was done, no two within a second."""
        self.shown_at: float | None = None

    def advance(self, count: float = 1, note: str | None = None) -> None:
        self.done += count
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.done))
        if self._due(now):
            say(self._line(now))
            self.shown, self.shown_at = self.done, now

    def _due(self, now: float) -> bool:
        if self.shown_at is None:
            return now - self.began >= FIRST_LINE
        pause = now - self.shown_at
        enough = self.total is None or self.done - self.shown >= SHARE * self.total
        return pause >= PAUSE and (enough or pause >= LONGEST_PAUSE)

    def _line(self, now: float) -> str:
        parts = [f"{self.title}: {self.done:,.0f}{f' of {self.total:,.0f}' if self.total else ''} {self.unit}"]
        parts += [self.note] if self.note else []
        if self.total and (speed := self._speed(now)):
            parts.append(f"{_clock((self.total - self.done) / speed)} left")
        return " · ".join(parts)

    def _speed(self, now: float) -> float:
        """Of the later half of what was done today: the first steps may read what others find read. 0: not known."""
        half = (self.begun_with + self.done) / 2
        since, before = next((mark for mark in self.marks[1:] if mark[1] >= half), self.marks[0])
        return (self.done - before) / (now - since) if now > since else 0.0


def _clock(seconds: float) -> str:
    """`1:05:09` or `5:09`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(line: str) -> None:
    """A line for the person at the terminal, on standard error."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def warn_skipped(name: str, skipped: Sequence[str], shown: int = 10) -> None:
    """Count and list the bad rows that were left out; beyond the first few, the run's record lists them."""
    if skipped:
        warn(f"{name}: {len(skipped):,} bad rows were left out")
        for line in skipped[:shown]:
            say(f"  {line}")
        if len(skipped) > shown:
            say(f"  and {len(skipped) - shown:,} more, which the results list")


def warn(line: str) -> None:
    """A line that a person should not overlook, on standard error."""
    console.print(f"warning: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)

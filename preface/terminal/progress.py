"""Progress bars with rate and time left, on standard error; nothing where that is not a terminal."""

from __future__ import annotations

import sys
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f} {task.fields['unit']}/s", style="dim")


@contextmanager
def progress(title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Callable[..., None]]:
    """A bar; the yielded function takes how much more is done, and optionally a `note` shown beside the title."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(title, total=total, unit=unit, note="")
        bar.update(task, completed=done)

        def advance(count: float = 1, note: str | None = None) -> None:
            bar.update(task, advance=count)
            if note is not None:
                bar.update(task, note=note)

        yield advance


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

"""How far the columns of a table are from one another on the same rows, and how far chance reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from preface.experiments.table import key_of, labels_of
from preface.labelling.measures import right_answers
from preface.records.results import Cell, latest

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A column's score less the reference's, with its 95 % interval, in [-1, 1]."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In points: `+1.2 (−0.3 to +2.7)`."""
        value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Differences:
    """Of every column to the first one that was trained with seeds."""

    reference: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, Difference]], ...]
    """By task, then by column; at the end the mean over the tasks that were not trained on."""

    @property
    def caption(self) -> str:
        """What the numbers are."""
        return (
            f"Accuracy less that of {self.reference}, on the same rows, in points; 95 % intervals over seeds and rows."
        )


def differences(cells: Sequence[Cell]) -> Differences | None:
    """Differences of accuracies on the tasks' test rows; None where there are not two columns to compare.

    An interval has the variance of the mean over seeds and that over rows, both from what was measured, and Student's t
    with the degrees of freedom of their sum (Satterthwaite 1946): with three seeds that differ it is wide. What is of
    neither alone is in both, so that where seeds do not differ it is rather too wide.
    """
    cells = [c for c in latest(cells) if c.metric == "accuracy" and c.split == "test" and "right" in c.details]
    labels = labels_of(cells)
    right: dict[str, dict[str, list[list[bool]]]] = {}  # by task, by column: [S, n]
    rows_of = {cell.eval_task: cell.n for cell in reversed(cells)}  # the first cell's: parts of a split are others
    for cell in cells:
        if cell.n != rows_of[cell.eval_task]:
            continue
        column = right.setdefault(cell.eval_task, {}).setdefault(labels[key_of(cell)], [])
        column.append(right_answers(cell.details["right"], cell.n))
    seeded = [labels[key_of(cell)] for cell in cells if cell.seed is not None and cell.trained_parameters]
    if not seeded or len(labels) < 2:
        return None
    reference = seeded[0]
    columns = tuple(label for label in labels.values() if label != reference)
    answers = {task: {name: np.array(rows) for name, rows in found.items()} for task, found in right.items()}
    apart = {
        task: {name: Apart(found[name], found[reference]) for name in columns if name in found}
        for task, found in answers.items()
        if reference in found
    }
    rows = [(task, {name: difference_of([one]) for name, one in found.items()}) for task, found in apart.items()]
    trained = {task for cell in cells for task in cell.trained_tasks}
    others = [found for task, found in apart.items() if task not in trained]
    if len(others) > 1:
        everywhere = [name for name in columns if all(name in found for found in others)]
        mean = {name: difference_of([found[name] for found in others]) for name in everywhere}
        rows.append((f"mean of the {len(others)} other tasks", mean))
    return Differences(reference, columns, tuple(rows))


@dataclass(frozen=True)
class Apart:
    """How far the columns a and b are from one another on a task, `[n]` rows of which each has right answers of S
    seeds, `[S, n]`."""

    a: Numbers
    b: Numbers

    @property
    def of_rows(self) -> Numbers:
        """On each row, the mean over seeds, `[n]`."""
        return self.a.mean(axis=0) - self.b.mean(axis=0)

    @property
    def of_seeds(self) -> list[Numbers]:
        """By each seed, the mean over rows, `[S]`: of both together where they have as many, else of each."""
        a, b = self.a.mean(axis=1), self.b.mean(axis=1)
        return [a - b] if len(a) == len(b) else [a, b]


def difference_of(tasks: Sequence[Apart]) -> Difference:
    """The mean over tasks with its interval."""
    rows, sides, share = [task.of_rows for task in tasks], [task.of_seeds for task in tasks], 1 / len(tasks)
    value = float(np.mean([row.mean() for row in rows]))
    # what a seed trained is asked on all tasks, so a lucky one is lucky on all
    if len({tuple(map(len, each)) for each in sides}) == 1:
        seeds = [np.mean(same, axis=0) for same in zip(*sides, strict=True)]
    else:
        seeds = [side * share for side in chain(*sides)]
    reach = _reach([*seeds, *(row * share for row in rows)])
    return Difference(value, max(value - reach, -1.0), min(value + reach, 1.0))


def _reach(samples: Sequence[Numbers]) -> float:
    """How far chance reaches to either side of the sum of the samples' means, by Student's t (Satterthwaite 1946)."""
    from scipy.special import stdtrit

    found = [(sample.var(ddof=1) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    whole = sum(variance for variance, _ in found)
    if not whole:
        return 0.0
    freedom = whole**2 / sum(variance**2 / degrees for variance, degrees in found)
    return float(stdtrit(freedom, 0.975)) * whole**0.5

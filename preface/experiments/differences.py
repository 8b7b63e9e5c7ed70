"""How far the columns of a table are from one another on the same rows, and how far chance reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preface.experiments.table import key_of, labels_of
from preface.labelling.measures import right_answers
from preface.records.results import Cell, latest

DRAWS = 2_000
AT_ONCE = 2**22
"""Numbers of rows' draws that are held at a time."""
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
            f"Accuracy less that of {self.reference}, on the same rows, in points; 95 % intervals over seeds and rows "
            f"(bootstrap, {DRAWS:,} draws)."
        )


def differences(cells: Sequence[Cell]) -> Differences | None:
    """Differences of accuracies on the tasks' test rows; None where there are not two columns to compare.

    An interval is the percentile bootstrap over seeds and rows (Davison and Hinkley 1997, section 3.8): both sides are
    given the same draws of rows, and of seeds where they have as many. Few seeds make it too narrow.
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
    draws: dict[str, dict[str, Numbers]] = {}  # each [1 + DRAWS]: as measured, then as drawn
    for number, (task, found) in enumerate(right.items()):
        if reference in found:
            scores = {name: draws_of(np.array(rows, dtype=float), number) for name, rows in found.items()}
            draws[task] = {name: scores[name] - scores[reference] for name in columns if name in scores}
    trained = {task for cell in cells for task in cell.trained_tasks}
    others = [found for task, found in draws.items() if task not in trained]
    if len(others) > 1:
        everywhere = [name for name in columns if all(name in found for found in others)]
        mean = {name: np.mean([found[name] for found in others], axis=0) for name in everywhere}
        draws[f"mean of the {len(others)} other tasks"] = mean
    rows = tuple((task, {name: difference_of(drawn) for name, drawn in found.items()}) for task, found in draws.items())
    return Differences(reference, columns, rows)


def draws_of(right: Numbers, task: int) -> Numbers:
    """The mean of `[S, n]` as it is, then as often as there are draws of its seeds and rows: the same draws for
    all that have as many in a task, which a number stands for."""
    seeds, n = right.shape
    of_seeds = np.random.default_rng(seeds).multinomial(seeds, [1 / seeds] * seeds, DRAWS) / seeds  # [DRAWS, S]
    rows, drawn = np.random.default_rng([task, n]), [np.array([right.mean()])]
    for some in np.array_split(of_seeds, -(-DRAWS * n // AT_ONCE)):  # all together may not fit into memory
        of_rows = rows.multinomial(n, [1 / n] * n, len(some)) / n  # [some, n]
        drawn.append((some @ right * of_rows).sum(axis=1))
    return np.concatenate(drawn)


def difference_of(drawn: Numbers) -> Difference:
    """What was measured, which comes first, and how far what was drawn of it reaches."""
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    return Difference(float(drawn[0]), float(low), float(high))

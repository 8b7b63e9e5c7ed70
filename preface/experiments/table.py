"""Cells arranged as a table: evaluations downwards, columns across. Which columns there are, and in which order, the
cells say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from preface.baselines.column import SEPARATOR, axis_value
from preface.errors import UserError
from preface.records.results import Cell, latest
from preface.tasks.metric import metric_title

MISSING = "–"

OWN_TASK = "own_task"
"""The entry of a cell's details that says: every task of its experiment is trained on by itself."""
MEAN = "mean of the tasks"

Key = tuple[str, str, str, str]
"""Of a column: method, backbone, training task, settings. Numbers that differ in any of these never share a mean; but
where every task is trained on by itself, the last two are the task's own."""


@dataclass(frozen=True)
class Entry:
    """What one method scores in one row of the table."""

    values: tuple[float, ...]
    """In [0, 1], one a seed."""

    @property
    def mean(self) -> float:
        """Mean over the seeds, in [0, 1]."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds, in [0, 1]; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        """In percent: `81.3`, or `81.3 ± 0.4`."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class Row:
    """One evaluation: a task's split under a metric."""

    task: str
    split: str
    metric: str
    counts: tuple[int, ...]
    """Distinct numbers of evaluated rows: one, unless some cells were measured on a part of the split."""
    entries: dict[str, Entry]
    """By column; a column that was not measured is absent."""

    @property
    def label(self) -> str:
        """The task, and the split and the metric where they are not the usual ones: `mrpc (dev, f1)`."""
        usual = {"test", "accuracy", ""}
        unusual = join(name for name in (self.split, self.metric) if name not in usual)
        return f"{self.task} ({unusual})" if unusual else self.task

    @property
    def n(self) -> str:
        """`1,821`, or `500–1,821`."""
        return _span(self.counts) if self.counts else ""

    @property
    def best(self) -> frozenset[str]:
        """Columns with the highest mean as shown, so that equal figures fare alike; never a lone column."""
        shown = {column: round(100 * entry.mean, 1) for column, entry in self.entries.items()}
        return frozenset(name for name in shown if len(shown) > 1 and shown[name] == max(shown.values()))

    def text(self, column: str) -> str:
        """The entry as shown, or a dash."""
        return str(self.entries.get(column, MISSING))


@dataclass(frozen=True)
class Table:
    """Evaluations by columns."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str
    """What the numbers are: metric, seeds, training task, what is frozen and how much is trained."""

    @property
    def metric(self) -> str:
        """The head of the first column: `accuracy (%)`; `score (%)` where there are several, which the rows name."""
        metrics = {row.metric for row in self.rows if row.metric}
        return f"{metrics.pop() if len(metrics) == 1 else 'score'} (%)"


def pivot(cells: Sequence[Cell]) -> Table:
    """Arrange cells in rows (task, split, metric) and columns, both in order of first appearance.

    Of cells that measure the same thing the last counts. A column's head says what tells it from the others: its
    method; its backbone and training task, where there are several; settings, where all else is the same.
    Raises `UserError` for no cells.
    """
    if not cells:
        raise UserError("there are no results to report yet: run an experiment first, then report its results")
    cells = latest(cells)
    labels = labels_of(cells)
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.eval_task, cell.split, cell.metric), []).append(cell)
    rows = tuple(_row(group, labels) for group in groups.values())
    caption = _caption(cells, rows, labels)
    if len(rows) > 1 and any(cell.details.get(OWN_TASK) for cell in cells):
        rows += (_mean(rows, labels.values()),)
    return Table(tuple(labels.values()), rows, caption)


def join(names: Iterable[str]) -> str:
    """The different ones, with commas."""
    return ", ".join(dict.fromkeys(names))


def _span(numbers: Iterable[int]) -> str:
    """`3`, or `1–3`."""
    numbers = set(numbers)
    return "–".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))


def key_of(cell: Cell) -> Key:
    """The column that a cell belongs to."""
    if cell.details.get(OWN_TASK):
        return cell.method, cell.backbone, "", ""
    return cell.method, cell.backbone, cell.train_task or "", repr(sorted(_settings(cell).items()))


def _settings(cell: Cell) -> dict[str, Any]:
    """The cell's settings by name, a method's fields among them."""
    settings = cell.settings
    method = settings.pop("method", {})
    return settings | (method if isinstance(method, dict) else {"method": method})


def labels_of(cells: Sequence[Cell]) -> dict[Key, str]:
    """What stands above each column: no two are the same."""
    first = {key_of(cell): cell for cell in reversed(cells)}
    keys = list(dict.fromkeys(map(key_of, cells)))
    backbones, tasks = ({key[place] for key in keys} - {""} for place in (1, 2))
    labels: dict[Key, str] = {}
    for key in keys:
        method, backbone, task, _ = key
        same_method = [other for other in keys if other[0] == method]
        twins = [_settings(first[other]) for other in same_method if other[:3] == key[:3]]
        varied = first[key].details.get("varied", {})
        parts = [method]
        if backbone and "backbone" not in varied and (len(backbones) > 1 or len({k[1] for k in same_method}) > 1):
            parts.append(backbone)
        if task and "train_task" not in varied and (len(tasks) > 1 or len({k[2] for k in same_method}) > 1):
            parts.append(f"from {task}")
        for name, value in _settings(first[key]).items():
            if any(twin.get(name) != value for twin in twins):
                parts.append(axis_value(name, value))
        labels[key] = SEPARATOR.join(parts)
    return labels


def _row(group: Sequence[Cell], labels: dict[Key, str]) -> Row:
    """Gather the cells of one task, split and metric."""
    values: dict[str, list[float]] = {}
    for cell in group:
        values.setdefault(labels[key_of(cell)], []).append(cell.value)
    return Row(
        group[0].eval_task,
        group[0].split,
        metric_title(group[0].metric),
        tuple(dict.fromkeys(cell.n for cell in group)),
        {label: Entry(tuple(found)) for label, found in values.items()},
    )


def _mean(rows: Sequence[Row], columns: Iterable[str]) -> Row:
    """The unweighted mean over the tasks, seed by seed, of the columns that were measured on all of them."""
    entries = {}
    for column in columns:
        values = [row.entries[column].values for row in rows if column in row.entries]
        seeds = {len(each) for each in values}
        if len(values) == len(rows) and len(seeds) == 1:
            entries[column] = Entry(tuple(map(mean, zip(*values, strict=True))))
    return Row(MEAN, "", "", (), entries)


def _caption(cells: Sequence[Cell], rows: Sequence[Row], labels: dict[Key, str]) -> str:
    """Say how many seeds a number stands for, what was trained, on what, and what stayed as it was."""
    seeds, sizes = {}, {}
    for key, label in labels.items():
        column = [cell for cell in cells if key_of(cell) == key]
        if any(cell.seed is not None for cell in column):
            seeds[label] = _span(len(row.entries[label].values) for row in rows if label in row.entries)
        if any(cell.trained_parameters for cell in column):
            sizes[label] = _span(cell.trained_parameters for cell in column)
    spread = "mean ± sample standard deviation"
    match sorted(set(seeds.values())):
        case []:
            said = "no seeds"
        case ["1"]:
            said = "one seed, so no deviation is known"
        case [count]:
            said = f"{spread} over {count} seeds"
        case _:
            said = f"{spread} over seeds ({join(f'{label}: {count}' for label, count in seeds.items())})"
    sentences = [f"{join(row.metric for row in rows)} in percent, {said}"]
    if any(cell.details.get(OWN_TASK) for cell in cells):
        sentences.append("Trained on each task by itself")
    elif trained_on := join(task for _, _, task, _ in labels if task):
        sentences.append(f"Trained on {trained_on}")
    if backbones := join(backbone for _, backbone, _, _ in labels if backbone):
        sentences.append(f"Frozen: {backbones}")
    sizes_said = join(f"{label} {size}" for label, size in sizes.items())
    sentences.append(f"Trained parameters: {sizes_said}" if sizes_said else "Nothing is trained")
    text = ". ".join(sentences) + "."
    return text[0].upper() + text[1:]

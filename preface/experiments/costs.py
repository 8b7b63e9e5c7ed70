"""The picture of what columns cost: scores by trained parameters, by stored bytes and by seconds of training, at home
and on other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from preface.experiments.table import key_of, labels_of
from preface.pages.drawing import INK, legend, style, styles_of
from preface.records.results import STORED, Cell, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 4
"""Columns that make a picture."""


@dataclass(frozen=True)
class Cost:
    """A column that trains."""

    label: str
    trained: int
    """Parameters."""
    home: float
    """Its score on the task trained on, the mean over seeds; of a mixture the mean over its tasks."""
    elsewhere: float
    """The mean over the other tasks."""
    stored: float | None = None
    """Bytes of what a training leaves, the mean over seeds. None where cells do not say."""
    seconds: float | None = None
    """Of one training, the mean over seeds; where several prompts trained side by side, each one's share. None where
    cells do not say."""


def costs_of(cells: Sequence[Cell]) -> list[Cost]:
    """The columns that train, by how much they do; empty where they are few, or were not tested at home and elsewhere
    by one metric."""
    cells = [cell for cell in latest(cells) if cell.split == "test"]
    labels = labels_of(cells)
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.trained_parameters and cell.trained_tasks:
            found.setdefault(labels[key_of(cell)], []).append(cell)
    costs = []
    for label, column in found.items():
        means: dict[bool, list[float]] = {True: [], False: []}  # of the tasks trained on, and of the others
        for task in dict.fromkeys(cell.eval_task for cell in column):
            scores = [cell.value for cell in column if cell.eval_task == task]
            means[task in column[0].trained_tasks].append(fmean(scores))
        if all(means.values()):
            paid = stored_of(column), seconds_of(column)
            costs.append(Cost(label, column[0].trained_parameters, fmean(means[True]), fmean(means[False]), *paid))
    metrics = {cell.metric for column in found.values() for cell in column}
    enough = len(metrics) == 1 and len({cost.trained for cost in costs}) >= FEWEST
    return sorted(costs, key=lambda cost: cost.trained) if enough else []


def stored_of(column: Sequence[Cell]) -> float | None:
    """What one of its trainings leaves, as `Cost.stored` says."""
    return _mean_if_known([cell.details.get(STORED) for cell in column])


def seconds_of(column: Sequence[Cell]) -> float | None:
    """What one of its trainings took, as `Cost.seconds` says."""
    of_all = [(cell.details.get("train_seconds"), cell.details.get("members", 1)) for cell in column]
    return _mean_if_known([None if seconds is None else seconds / members for seconds, members in of_all])


def _mean_if_known(values: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def best_so_far(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points by rising cost, those that no cheaper one equals (the Pareto front)."""
    front: list[tuple[float, float]] = []
    for cost, score in points:
        if not front or score > front[-1][1]:
            front = [point for point in front if point[0] < cost]
            front.append((cost, score))
    return front


def figure_of_costs(costs: Sequence[Cost]) -> Figure:
    """Two panels beside each other for each kind of cost that enough columns know of; a line leads along the best that
    so much of it buys."""
    from matplotlib.figure import Figure

    kinds: dict[str, dict[Cost, float]] = {"trained parameters": {cost: cost.trained for cost in costs}}
    stored = {cost: cost.stored for cost in costs if cost.stored}
    timed = {cost: cost.seconds for cost in costs if cost.seconds}
    further = {"stored bytes": stored, "seconds of one training": timed}
    kinds |= {kind: found for kind, found in further.items() if len(found) >= FEWEST}
    styles = styles_of(cost.label for cost in costs)
    figure = Figure(figsize=(7.2, 3.1 * len(kinds) + 0.8 + 0.1 * len(costs)), layout="constrained")
    grid = figure.subplots(len(kinds), 2, squeeze=False, sharey="col")
    for (home, elsewhere), (kind, found) in zip(grid, kinds.items(), strict=True):
        _draw(home, [(cost.label, price, cost.home) for cost, price in found.items()], styles, kind)
        _draw(elsewhere, [(cost.label, price, cost.elsewhere) for cost, price in found.items()], styles, kind)
        home.set_ylabel("score (%)")
    for axes, title in zip(grid[0], ("trained on", "mean of the other tasks"), strict=True):
        axes.set_title(title, fontsize=10, color=INK)
    handles = [axes.plot([], [], marker, color=c, markeredgewidth=0, label=n)[0] for n, (c, marker) in styles.items()]
    legend(figure, handles)
    return figure


def _draw(axes: Axes, points: list[tuple[str, float, float]], styles: dict[str, tuple[str, str]], kind: str) -> None:
    points = sorted(points, key=lambda point: point[1])
    front = best_so_far([(cost, 100 * score) for _, cost, score in points])
    axes.step(*zip(*front, strict=True), where="post", color=INK, alpha=0.35, linewidth=1.2)
    for label, cost, score in points:
        colour, marker = styles[label]
        axes.plot(cost, 100 * score, marker, color=colour, markersize=8, markeredgewidth=0)
    axes.set_xscale("log")
    least, most = points[0][1], points[-1][1]
    powers = [10.0**power for power in range(-3, 12) if least <= 10.0**power <= most]
    ticks = powers if len(powers) > 1 else [least, most]
    axes.set_xticks(ticks, labels=[_short(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(kind)
    style(axes)


def _short(number: float) -> str:
    """`0.1`, `1K`, `100K`, `10M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (1_000, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"

"""The picture of what columns train: scores by the number of trained parameters, at home and on other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from preface.experiments.table import key_of, labels_of
from preface.pages.drawing import INK, style, styles_of
from preface.records.results import Cell, latest

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
    """Its score on the task trained on, the mean over seeds."""
    elsewhere: float
    """The mean over the other tasks."""


def costs_of(cells: Sequence[Cell]) -> list[Cost]:
    """The columns that train, by how much they do; empty where they are few, or were not tested at home and elsewhere
    by one metric."""
    cells = [cell for cell in latest(cells) if cell.split == "test"]
    labels = labels_of(cells)
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.trained_parameters and cell.train_task is not None:
            found.setdefault(labels[key_of(cell)], []).append(cell)
    costs = []
    for label, column in found.items():
        home = [cell.value for cell in column if cell.eval_task == cell.train_task]
        other = dict.fromkeys(cell.eval_task for cell in column if cell.eval_task != cell.train_task)
        means = [fmean(cell.value for cell in column if cell.eval_task == task) for task in other]
        if home and means:
            costs.append(Cost(label, column[0].trained_parameters or 0, fmean(home), fmean(means)))
    metrics = {cell.metric for column in found.values() for cell in column}
    enough = len(metrics) == 1 and len({cost.trained for cost in costs}) >= FEWEST
    return sorted(costs, key=lambda cost: cost.trained) if enough else []


def best_so_far(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Of points by rising cost, those that no cheaper one equals (the Pareto front)."""
    front: list[tuple[int, float]] = []
    for cost, score in points:
        if not front or score > front[-1][1]:
            front = [point for point in front if point[0] < cost]
            front.append((cost, score))
    return front


def figure_of_costs(costs: Sequence[Cost]) -> Figure:
    """Two panels beside each other; a line leads along the best that so many parameters buy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6 + 0.1 * len(costs)), layout="constrained")
    home, elsewhere = figure.subplots(1, 2)
    styles = styles_of(cost.label for cost in costs)
    _draw(home, [(cost.label, cost.trained, cost.home) for cost in costs], styles, "trained on")
    _draw(elsewhere, [(cost.label, cost.trained, cost.elsewhere) for cost in costs], styles, "mean of the other tasks")
    home.set_ylabel("score (%)")
    handles = [home.plot([], [], marker, color=c, markeredgewidth=0, label=n)[0] for n, (c, marker) in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw(axes: Axes, points: Sequence[tuple[str, int, float]], styles: dict[str, tuple[str, str]], title: str) -> None:
    front = best_so_far([(cost, 100 * score) for _, cost, score in points])
    axes.step(*zip(*front, strict=True), where="post", color=INK, alpha=0.35, linewidth=1.2)
    for label, cost, score in points:
        colour, marker = styles[label]
        axes.plot(cost, 100 * score, marker, color=colour, markersize=8, markeredgewidth=0)
    axes.set_xscale("log")
    powers = [10**power for power in range(12) if points[0][1] <= 10**power <= points[-1][1]]
    axes.set_xticks(powers, labels=[_short(power) for power in powers])
    axes.minorticks_off()
    axes.set_xlabel("trained parameters")
    axes.set_title(title, fontsize=10, color=INK)
    style(axes)


def _short(number: int) -> str:
    """`1K`, `100K`, `10M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (1_000, "K")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)

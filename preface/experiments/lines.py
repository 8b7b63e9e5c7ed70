"""The picture of what was varied: a panel for each axis and column, a line for each task."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from preface.baselines.column import SEPARATOR, axis_value, shown
from preface.pages.drawing import INK, style, styles_of
from preface.records.results import Cell, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = dict[str, dict[str, tuple[Any, list[float]]]]
"""By task, then by the value as it is shown: the value itself, and the scores in [0, 1], one a seed."""


def panels_of(cells: Sequence[Cell]) -> dict[tuple[str, str], Panel]:
    """What was varied, by axis and column; a column that is varied along several axes has a panel for each value of the
    others. Empty where nothing was varied."""
    found: dict[tuple[str, str], Panel] = {}
    for cell in latest(cells):
        varied = cell.details.get("varied", {})
        for axis, value in varied.items():
            others = [axis_value(other, varied[other]) for other in varied if other != axis]
            panel = found.setdefault((axis, SEPARATOR.join([cell.details["column"], *others])), {})
            panel.setdefault(cell.eval_task, {}).setdefault(shown(value), (value, []))[1].append(cell.value)
    return {place: panel for place, panel in found.items() if any(len(line) > 1 for line in panel.values())}


def figure_of_lines(found: dict[tuple[str, str], Panel]) -> Figure:
    """Panels two in a row, with one scale of scores for all."""
    from matplotlib.figure import Figure

    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(7.2 if columns > 1 else 5.4, 3.2 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    tasks = list(dict.fromkeys(task for panel in found.values() for task in panel))
    styles = styles_of(tasks)
    for ((axis, column), panel), axes in zip(found.items(), grid, strict=False):  # grid second: none of it is lost
        _draw(axes, panel, styles)
        axes.set_title(column, fontsize=10, color=INK)
        axes.set_xlabel(axis.replace("_", " "))
    for axes in list(grid):  # an odd number of panels leaves one place
        axes.set_visible(False)
    for row in range(rows):
        figure.axes[row * columns].set_ylabel("score (%)")
    handles = [figure.axes[0].plot([], [], f"{marker}-", color=c, label=t)[0] for t, (c, marker) in styles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(tasks), 4), frameon=False)
    return figure


def _draw(axes: Axes, panel: Panel, styles: dict[str, tuple[str, str]]) -> None:
    values = {name: value for line in panel.values() for name, (value, _) in line.items()}
    places = _places(values)
    for task, line in panel.items():
        colour, marker = styles[task]
        scores = [line[name][1] for name in sorted(line, key=places.__getitem__)]
        axes.errorbar(
            sorted(places[name] for name in line),
            [100 * mean(score) for score in scores],
            yerr=[100 * stdev(score) if len(score) > 1 else 0 for score in scores],
            color=colour, marker=marker, markeredgewidth=0, linewidth=1.4, elinewidth=1, capsize=2.5,
        )  # fmt: skip
    if min(places.values()) > 0 and max(places.values()) >= 10 * min(places.values()):
        axes.set_xscale("log")
    axes.set_xticks([*places.values()], labels=[*places])
    axes.minorticks_off()
    style(axes)


def _places(values: dict[str, Any]) -> dict[str, float]:
    """Where each value stands: numbers where they are, anything else one after the other."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        return {name: float(value) for name, value in values.items()}
    return {name: float(place) for place, name in enumerate(values)}

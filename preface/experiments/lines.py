"""The picture of what was varied: a panel for each task, a line for each column, a level for what stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from statistics import mean, stdev
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from preface.baselines.column import SEPARATOR, axis_value, shown
from preface.experiments.table import key_of, labels_of
from preface.pages.drawing import INK, legend, style, styles_of
from preface.records.results import Cell, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LEVELS = 5
"""Where more columns stay as they are, they would hide the lines; the table's own picture has them."""
DASHES = ("--", ":", "-.")
APART = 0.12
"""Of a panel's width, between two values that are written side by side."""
LETTERS = 12
"""Of a value, in one line."""
ROOM = 40
"""Letters below a panel that has another beside it."""

Line = dict[str, tuple[Any, list[float]]]
"""By the value as it is shown: the value itself, and the scores in [0, 1], one a seed."""


@dataclass(frozen=True)
class Panel:
    """What one axis does on one task."""

    axis: str
    task: str
    lines: dict[str, Line] = field(default_factory=dict)
    """By column; one that is varied along several axes is a line for each value of the others."""
    levels: dict[str, list[float]] = field(default_factory=dict)
    """The scores of the columns that are not varied."""


def panels_of(cells: Sequence[Cell]) -> list[Panel]:
    """What was varied, by axis and task. Empty where nothing was."""
    cells = latest(cells)
    found: dict[tuple[str, str], Panel] = {}
    for cell in cells:
        varied = cell.details.get("varied", {})
        for axis, value in varied.items():
            others = [axis_value(other, varied[other]) for other in varied if other != axis]
            panel = found.setdefault((axis, cell.eval_task), Panel(axis, cell.eval_task))
            line = panel.lines.setdefault(SEPARATOR.join([cell.details["column"], *others]), {})
            line.setdefault(shown(value), (value, []))[1].append(cell.value)
    labels = labels_of(cells)
    unvaried = [cell for cell in cells if not cell.details.get("varied")]
    if len({key_of(cell) for cell in unvaried}) <= MOST_LEVELS:
        for panel in found.values():
            for cell in unvaried:
                if cell.eval_task == panel.task:
                    panel.levels.setdefault(labels[key_of(cell)], []).append(cell.value)
    axes = {panel.axis for panel in found.values() if _worth_a_picture(panel)}
    return sorted((panel for panel in found.values() if panel.axis in axes), key=lambda panel: panel.axis)


def _worth_a_picture(panel: Panel) -> bool:
    """Whether a column has several values, which are numbers, or something else to be compared with."""
    several = any(len(line) > 1 for line in panel.lines.values())
    return several and (_numbers(_values([panel]).values()) or len(panel.lines) + len(panel.levels) > 1)


def figure_of_lines(panels: Sequence[Panel]) -> Figure:
    """Panels two in a row where values have room, each with a scale of its own for scores."""
    from matplotlib.figure import Figure

    lines = dict.fromkeys(label for panel in panels for label in panel.lines)
    levels = dict.fromkeys(label for panel in panels for label in panel.levels)
    styles, dashes = styles_of([*lines, *levels]), dict(zip(levels, cycle(DASHES), strict=False))
    values = {panel.axis: _values(other for other in panels if other.axis == panel.axis) for panel in panels}
    columns = 2 if len(panels) > 1 and all(map(_have_room, values.values())) else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.2, (2.2 + 0.4 * columns) * rows + 0.7 + 0.1 * len(styles)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, grid, strict=False):  # grid second: none of it is lost
        _draw(axes, panel, values[panel.axis], styles, dashes)
    for axes in list(grid):  # an odd number of panels leaves one place
        axes.set_visible(False)
    for row in range(rows):
        figure.axes[row * columns].set_ylabel("score (%)")
    if columns == 1:  # values stand below the last panel of their axis
        for axes, panel, below in zip(figure.axes, panels, panels[1:], strict=False):
            if panel.axis == below.axis:
                axes.tick_params(labelbottom=False)
                axes.set_xlabel("")
    axes = figure.axes[0]
    handles = [axes.plot([], [], f"{styles[n][1]}-", color=styles[n][0], markeredgewidth=0, label=n)[0] for n in lines]
    handles += [axes.plot([], [], dashes[n], color=styles[n][0], label=n)[0] for n in levels]
    legend(figure, handles)
    return figure


def _draw(
    axes: Axes, panel: Panel, values: dict[str, Any], styles: dict[str, tuple[str, str]], dashes: dict[str, str]
) -> None:
    places = _places(values)
    span = max(places.values()) - min(places.values()) or 1.0
    for label, scores in panel.levels.items():
        axes.axhline(100 * mean(scores), color=styles[label][0], linestyle=dashes[label], linewidth=1.4)
    for index, (label, line) in enumerate(panel.lines.items()):
        colour, marker = styles[label]
        beside = (index - (len(panel.lines) - 1) / 2) * 0.012 * span  # so that no bar hides another
        names = [name for name in places if name in line]
        scores_of = [line[name][1] for name in names]
        axes.errorbar(
            [places[name] + beside for name in names],
            [100 * mean(scores) for scores in scores_of],
            yerr=[100 * stdev(scores) if len(scores) > 1 else 0 for scores in scores_of],
            color=colour, marker=marker, markeredgewidth=0, linestyle="-" if _numbers(values.values()) else "",
            linewidth=1.4, elinewidth=1, capsize=2,
        )  # fmt: skip
    axes.set_xlim(min(places.values()) - 0.08 * span, max(places.values()) + 0.08 * span)
    axes.set_xticks([*places.values()], labels=_written(places, span))
    axes.set_title(panel.task, fontsize=10, color=INK)
    axes.set_xlabel(panel.axis.replace("_", " "))
    style(axes)


def _values(panels: Iterable[Panel]) -> dict[str, Any]:
    """As they are shown, and as they are; numbers by size."""
    lines = (line for panel in panels for line in panel.lines.values())
    found = {name: value for line in lines for name, (value, _) in line.items()}
    return dict(sorted(found.items(), key=lambda item: float(item[1]))) if _numbers(found.values()) else found


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _places(values: dict[str, Any]) -> dict[str, float]:
    """Where each value stands: numbers where they are, by their logarithms where they reach far; anything else one
    after the other."""
    if not _numbers(values.values()):
        return {name: float(place) for place, name in enumerate(values)}
    far = min(values.values()) > 0 and max(values.values()) >= 10 * min(values.values())
    return {name: math.log10(value) if far else float(value) for name, value in values.items()}


def _written(places: dict[str, float], span: float) -> list[str]:
    """The values below a panel; one that is near to those on its left stands a line lower."""
    found, last = [], dict[int, float]()
    for name, place in places.items():
        lower = next(line for line in count() if place - last.get(line, -math.inf) >= APART * span)
        last[lower] = place
        found.append("\n" * lower + "\n".join(wrap(name, LETTERS)))
    return found


def _have_room(values: Iterable[str]) -> bool:
    """Below a panel that has another beside it."""
    return sum(min(len(name), LETTERS) + 2 for name in values) <= ROOM

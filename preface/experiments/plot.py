"""The picture of a table: columns as dots with error bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from preface.experiments.table import Table
from preface.pages.drawing import INK, legend, style, styles_of

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure


def figure_of_dots(table: Table) -> Figure:
    """Rows downwards, so that a long task name has room; dots and no bars, which would have to start at 0."""
    from matplotlib.figure import Figure

    styles = styles_of(table.columns)
    step = 0.7 / len(table.columns)  # of a row's height, between one column and the next
    height = len(table.rows) * (0.3 + 0.17 * len(table.columns)) + 1.1
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()

    for index, row in enumerate(table.rows):
        if index % 2 == 0:
            axes.axhspan(index - 0.5, index + 0.5, color=INK, alpha=0.05, linewidth=0)
        for place, column in enumerate(table.columns):
            if (entry := row.entries.get(column)) is None:
                continue
            y = index + (place - (len(table.columns) - 1) / 2) * step
            colour, marker = styles[column]
            dot: dict[str, Any] = {"color": colour, "markeredgewidth": 0}
            if entry.deviation is not None:
                axes.errorbar(100 * entry.mean, y, xerr=100 * entry.deviation, color=colour, capsize=2.5)
                below = [y + 0.38 * step] * len(entry.values)  # where neither bar nor mean hides a seed
                axes.plot([100 * v for v in entry.values], below, "o", markersize=3, alpha=0.6, **dot)
            axes.plot(100 * entry.mean, y, marker, markersize=7, clip_on=False, **dot)

    handles = [
        axes.plot([], [], marker, color=colour, markersize=7, markeredgewidth=0, label=column)[0]
        for column, (colour, marker) in styles.items()
    ]
    legend(figure, handles)
    axes.set_yticks(range(len(table.rows)), labels=[row.label for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.set_xlabel(table.metric)
    style(axes, grid="x")
    return figure

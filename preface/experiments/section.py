"""What a page says of some cells: the same on an experiment's own page and on one about several folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from preface.experiments.costs import costs_of, figure_of_costs
from preface.experiments.differences import Differences, differences
from preface.experiments.lines import figure_of_lines, panels_of
from preface.experiments.plot import figure_of_dots
from preface.experiments.table import MISSING, Table, join, pivot
from preface.pages import inline
from preface.records.results import COMPUTED, Cell, latest, ways_computed

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from markupsafe import Markup
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    name: str
    """Of its file, without a suffix."""
    said: str
    """What it shows, for whoever does not see it."""
    draw: Callable[[], Figure]

    @property
    def inline(self) -> Markup:
        """As an element of a page."""
        return inline(self.draw)


@dataclass(frozen=True)
class Section:
    """Cells, and what is to be said of them. What follows from them is computed where it is first asked for; without
    cells, that raises UserError."""

    title: str
    cells: Sequence[Cell]
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()

    @cached_property
    def table(self) -> Table:
        return pivot(self.cells)

    @cached_property
    def differences(self) -> Differences | None:
        return differences(self.cells)

    @property
    def summary(self) -> str:
        """One line: how much was measured, and which columns lead in how many rows."""
        rows, columns = self.table.rows, self.table.columns
        size = f"{len(rows)} evaluation{'s'[: len(rows) > 1]}, {len(columns)} column{'s'[: len(columns) > 1]}."
        leads = {c: sum(c in row.best for row in rows) for c in columns}
        led = join(f"{column} in {count}" for column, count in leads.items() if count)
        return f"{size} Highest mean: {led}." if led else size

    @cached_property
    def pictures(self) -> list[Picture]:
        """The table as dots; lines where axes vary, and costs where several columns train unlike many parameters."""
        table, panels, costs = self.table, panels_of(self.cells), costs_of(self.cells)
        columns, rows = ", ".join(table.columns), ", ".join(row.label for row in table.rows)
        said = f"Dot plot of the table above: {table.metric} of {columns}, on {rows}."
        found = [Picture("plot", said, lambda: figure_of_dots(table))]
        if panels:
            said = "Lines: the scores of the table above by the values of what was varied, task by task."
            found.append(Picture("vary", said, lambda: figure_of_lines(panels)))
        if costs:
            said = "Dots: the scores of columns by what they train, and by how long where that is known."
            found.append(Picture("costs", said, lambda: figure_of_costs(costs)))
        return found

    @property
    def measurements(self) -> list[dict[str, str]]:
        """The cells that count, each as it is shown, by the heads of a table."""
        return [_shown(cell) for cell in latest(self.cells)]

    @property
    def versions(self) -> dict[str, str]:
        """Each library's version, all of them where cells were measured with several; in what precision backbones
        computed, and on what, as far as cells say."""
        cells = latest(self.cells)
        names = dict.fromkeys(name for cell in cells for name in cell.versions)
        found = {name: join(c.versions[name] for c in cells if name in c.versions) for name in names}
        computed = join(ways_computed(cells))
        return found | ({COMPUTED: computed} if computed else {})


def _shown(cell: Cell) -> dict[str, str]:
    rate = cell.details.get("learning_rate", MISSING)
    return {
        "method": cell.method,
        "backbone": cell.backbone or MISSING,
        "trained on": cell.train_task or MISSING,
        "evaluated on": f"{cell.eval_task}, {cell.split}",
        "seed": MISSING if cell.seed is None else str(cell.seed),
        "learning rate": f"{rate:g}" if isinstance(rate, float) else str(rate),
        "trained parameters": f"{cell.trained_parameters:,}",
        "metric": cell.metric,
        "%": f"{100 * cell.value:.1f}",
        "rows": f"{cell.n:,}",
        "seconds to evaluate": f"{cell.seconds:,.1f}",
    }

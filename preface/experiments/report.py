"""From a table to what people read: a terminal, Markdown, a page, and the files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preface.experiments.costs import costs_of, figure_of_costs
from preface.experiments.differences import Differences, differences
from preface.experiments.lines import figure_of_lines, panels_of
from preface.experiments.plot import figure_of_dots, plot
from preface.experiments.table import MISSING, Table, join, pivot
from preface.pages import inline, write_page
from preface.pages.drawing import picture
from preface.records.atomic import write_atomically
from preface.records.results import COMPUTED, Cell, latest, ways_computed, write_cells

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from rich.table import Table as RichTable


def rich_table(table: Table) -> RichTable:
    """The table for a terminal; the best of each row is bold."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not str: a name in square brackets is a name and no markup
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(table.caption), caption_justify="left")
    drawn.add_column(Text(table.metric), overflow="fold")
    for name in ("rows", *table.columns):
        drawn.add_column(Text(name), justify="right", overflow="fold")
    for row in table.rows:
        entries = [Text(row.text(name), style="bold" if name in row.best else "") for name in table.columns]
        drawn.add_row(Text(row.label), Text(row.n, style="dim"), *entries)
    return drawn


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its caption below; the best of each row is bold."""
    lines = [
        [table.metric, "rows", *table.columns],
        ["---", *["---:"] * (1 + len(table.columns))],
    ]
    for row in table.rows:
        entries = [f"**{row.text(c)}**" if c in row.best else row.text(c) for c in table.columns]
        lines.append([row.label, row.n, *entries])
    return _drawn(lines, table.caption)


def markdown_of_differences(found: Differences) -> str:
    """The same for the differences of the columns to the first one that was trained."""
    lines = [["accuracy, points", *found.columns], ["---", *["---:"] * len(found.columns)]]
    lines += [[task, *(str(by_column.get(c, MISSING)) for c in found.columns)] for task, by_column in found.rows]
    return _drawn(lines, found.caption)


def _drawn(lines: Sequence[Sequence[str]], caption: str) -> str:
    drawn = "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)
    return f"{drawn}\n\n{_escape(caption)}\n"


def html(
    cells: Sequence[Cell],
    title: str,
    path: Path,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    beside: Differences | None = None,
) -> None:
    """Write one page that needs nothing else: summary, table, plot, differences, notes, every cell, versions and
    commands.

    Raises `UserError` for no cells.
    """
    table, cells = pivot(cells), latest(cells)
    panels, costs = panels_of(cells), costs_of(cells)
    write_page(
        path,
        "report.html",
        title=title,
        summary=_summary(table),
        table=table,
        differences=beside,
        plot=inline(lambda: figure_of_dots(table)),
        varied=panels and inline(lambda: figure_of_lines(panels)),
        costs=costs and inline(lambda: figure_of_costs(costs)),
        notes=notes,
        cells=[(cell, _learning_rate(cell)) for cell in cells],
        versions={**_versions(cells), **_computed(cells)},
        commands=commands,
        missing=MISSING,
    )


def write_report(
    cells: Sequence[Cell],
    folder: Path,
    title: str,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> None:
    """Write `results.json`, `table.md`, `plot.png` and `report.html` into `folder`; `vary.png` where axes vary, and
    `costs.png` where several columns train unlike many parameters.

    Raises `UserError` for no cells, and then writes nothing.
    """
    table = pivot(cells)
    write_cells(folder / "results.json", cells)
    beside = differences(cells)
    write_atomically(folder / "table.md", markdown(table) + (f"\n{markdown_of_differences(beside)}" if beside else ""))
    plot(table, folder / "plot.png")
    if panels := panels_of(cells):
        (folder / "vary.png").write_bytes(picture(lambda: figure_of_lines(panels), "png"))
    if costs := costs_of(cells):
        (folder / "costs.png").write_bytes(picture(lambda: figure_of_costs(costs), "png"))
    html(cells, title, folder / "report.html", notes, commands, beside)


def _summary(table: Table) -> str:
    """One line: how much was measured, and which columns lead in how many rows."""
    size = f"{len(table.rows)} evaluation{'s'[: len(table.rows) > 1]}"
    size += f", {len(table.columns)} column{'s'[: len(table.columns) > 1]}."
    leads = {c: sum(c in row.best for row in table.rows) for c in table.columns}
    led = join(f"{column} in {count}" for column, count in leads.items() if count)
    return f"{size} Highest mean: {led}." if led else size


def _escape(text: str) -> str:
    """Keep a name from ending a table's field or its line, or from being taken for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _learning_rate(cell: Cell) -> str:
    rate = cell.details.get("learning_rate", MISSING)
    return f"{rate:g}" if isinstance(rate, float) else str(rate)


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    """Each library's version; all of them, where cells were measured with several."""
    names = dict.fromkeys(name for cell in cells for name in cell.versions)
    return {name: join(c.versions[name] for c in cells if name in c.versions) for name in names}


def _computed(cells: Sequence[Cell]) -> dict[str, str]:
    """In what precision backbones computed, and on what, as far as cells say."""
    found = join(ways_computed(cells))
    return {COMPUTED: found} if found else {}

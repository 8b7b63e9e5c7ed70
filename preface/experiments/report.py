"""From a table to what people read: a terminal, Markdown, a page, and the files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preface.experiments.differences import Differences
from preface.experiments.section import Section
from preface.experiments.table import MISSING, Table
from preface.experiments.table import pivot as pivot  # whoever draws a table makes it first
from preface.pages import write_page
from preface.pages.drawing import picture
from preface.records.atomic import write_atomically
from preface.records.results import Cell, write_cells

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from rich.table import Table as RichTable

SAID = "report.json"


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


def write_report(
    cells: Sequence[Cell],
    folder: Path,
    title: str,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> None:
    """Write `results.json`, `table.md`, its pictures, and `report.html`, a page that needs nothing else, into `folder`.
    What the page says and no cell knows stands in `report.json`, for pages about several folders.

    Raises `UserError` for no cells, and then writes nothing.
    """
    section = Section(title, cells, notes, commands)
    table, beside = markdown(section.table), section.differences
    write_cells(folder / "results.json", cells)
    write_atomically(folder / "table.md", table + (f"\n{markdown_of_differences(beside)}" if beside else ""))
    for one in section.pictures:
        (folder / f"{one.name}.png").write_bytes(picture(one.draw, "png"))
    said = {"title": title, "notes": [*notes], "commands": [*commands]}
    write_atomically(folder / SAID, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    write_page(folder / "report.html", "report.html", section=section)


def _escape(text: str) -> str:
    """Keep a name from ending a table's field or its line, or from being taken for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())

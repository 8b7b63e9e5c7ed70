"""From a table to what people read: a terminal, Markdown, a page, and the files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from preface.experiments.differences import Differences
from preface.experiments.section import Section
from preface.experiments.table import MISSING, Row, Table
from preface.experiments.table import pivot as pivot  # whoever draws a table makes it first
from preface.pages import write_page
from preface.pages.drawing import picture
from preface.records.atomic import write_atomically
from preface.records.results import RESULTS, Cell, write_cells

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from rich.table import Table as RichTable
    from rich.text import Text

SAID = "report.json"
"""Title, notes and commands: what a page says beyond the cells."""
WIDEST = 10_000
"""Letters in a line: no table has as many."""
NARROW = 20
"""Letters in a line of a name, where there is little room."""


def rich_table(table: Table, width: int | None = None) -> RichTable:
    """The table for a terminal that has room for `width` letters in a line (default: this one); the best of each row
    is bold. Where it does not fit, columns become rows; where that does not either, each number has its own line."""
    from rich.console import Console
    from rich.text import Text

    def entry(row: Row, column: str) -> Text:
        return Text(row.text(column), style="bold" if column in row.best else "")

    counts = [(row, Text(row.n, style="dim")) for row in table.rows]
    upright = [[Text(row.label), n, *(entry(row, column) for column in table.columns)] for row, n in counts]
    turned = [[Text(column), *(entry(row, column) for row in table.rows)] for column in table.columns]
    turned = [[Text("rows", style="dim"), *(n for _, n in counts)], *turned]
    forms = [
        ([table.metric, "rows", *table.columns], upright),
        ([table.metric, *(row.label for row in table.rows)], turned),
    ]
    width = Console().width if width is None else width
    for heads, lines in [*forms, *(_broken(*form) for form in forms)]:
        drawn = _drawn_table(heads, lines, table.caption)
        if Console(width=WIDEST).measure(drawn).maximum <= width:
            return drawn
    each = [[Text(row.label), Text(c), n, entry(row, c)] for row, n in counts for c in table.columns]
    return _drawn_table(["", "", "rows", table.metric], each, table.caption)


def _drawn_table(heads: Sequence[str], lines: Sequence[Sequence[Text]], caption: str) -> RichTable:
    """Numbers on the right; the first column, and what has no head, are names."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not str: a name in square brackets is a name and no markup
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.caption, drawn.caption_justify = Text(caption), "left"
    for place, head in enumerate(heads):
        drawn.add_column(Text(head), justify="right" if place and head else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*line)
    return drawn


def _broken(heads: Sequence[str], lines: Sequence[Sequence[Text]]) -> tuple[list[str], list[list[Text]]]:
    """The same with names in several lines: heads as narrow as what is below them, the first column as `NARROW`, both
    as far as words can be parted."""
    from rich.text import Text

    first = _parted([heads[0], *(str(line[0]) for line in lines)], NARROW)
    numbers = (max(len(line[place]) for line in lines) for place in range(1, len(heads)))
    parted = [_parted([head], below)[0] for head, below in zip(heads[1:], numbers, strict=True)]
    names = [Text(name, line[0].style) for name, line in zip(first[1:], lines, strict=True)]
    return [first[0], *parted], [[name, *line[1:]] for name, line in zip(names, lines, strict=True)]


def _parted(names: Sequence[str], width: int) -> list[str]:
    """In lines of so many letters, or as many as the longest word has."""
    words = [word for name in names for word in wrap(name, 1, break_long_words=False)]
    return ["\n".join(wrap(name, max(width, *map(len, words)), break_long_words=False)) for name in names]


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
    write_cells(folder / RESULTS, cells)
    write_atomically(folder / "table.md", table + (f"\n{markdown_of_differences(beside)}" if beside else ""))
    for one in section.pictures:
        (folder / f"{one.name}.png").write_bytes(picture(one.draw, "png"))
    said = {"title": title, "notes": [*notes], "commands": [*commands]}
    write_atomically(folder / SAID, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    write_page(folder / "report.html", "report.html", section=section)


def _escape(text: str) -> str:
    """Keep a name from ending a table's field or its line, or from being taken for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())

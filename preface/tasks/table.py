"""Rows of CSV and TSV tables, with and without quoting."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence

from preface.errors import UserError
from preface.tasks.lines import LONGEST
from preface.tasks.row import OnBad, Row
from preface.tasks.wording import listed


def table_rows(
    lines: Iterable[str],
    name: str,
    separator: str,
    quoted: bool,
    columns: Sequence[str] | None,
    on_bad: OnBad,
) -> Iterator[Row]:
    """The rows of a table whose first line is its header, unless `columns` names its fields.

    Raises UserError for a header that cannot be used; other bad lines go to `on_bad`.
    """
    records = _quoted(lines, separator) if quoted else _unquoted(lines, separator)
    header = list(columns) if columns else None
    for number, cells in records:
        place = f"{name} line {number}"
        if header is None:
            header = _header(cells, place)
        elif isinstance(cells, str):
            on_bad(f"{place}: {cells}")
        elif len(cells) != len(header):
            on_bad(
                f"{place}: has {len(cells)} cells, but the header has {len(header)} ({listed(header)}); "
                "quote cells that hold the separator"
            )
        else:
            yield Row(name, number, dict(zip(header, cells, strict=True)))


def _header(cells: list[str] | str, place: str) -> list[str]:
    if isinstance(cells, str):
        raise UserError(f"{place}: {cells}")
    names = [cell.strip() for cell in cells]
    if any("\0" in cell for cell in names):
        raise UserError(f"{place}: the header holds a NUL byte; name the file's --encoding if it is a text file")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UserError(
            f"{place}: the header names the field {listed([twice])} twice; give each column a name of its own"
        )
    return names


def _quoted(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | str]]:
    csv.field_size_limit(LONGEST)  # the module's own limit, 131,072 characters, is less than a long article
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            yield number, f'its quoting is broken ({error}); a quoted cell ends in " and writes " as ""'
            continue
        if cells:
            yield number, cells


def _unquoted(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | str]]:
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if line:
            yield number, line.split(separator)

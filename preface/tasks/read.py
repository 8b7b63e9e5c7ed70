"""Rows from data files, one at a time: CSV, TSV, JSON Lines, Parquet, plain lines, and `sentence@label`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from preface.errors import UserError
from preface.tasks.lines import iter_lines, open_bytes
from preface.tasks.row import OnBad, Row, raise_bad
from preface.tasks.table import table_rows
from preface.tasks.wording import STDIN, brief, shown

Format = Literal["csv", "tsv", "jsonl", "parquet", "txt", "text@label"]
"""`txt` is one text a line; `text@label` is one text and, after the last @, its label a line."""

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}


def format_of(source: str | Path) -> Format:
    """The format that a file's name says, also before `.gz`; raises UserError if it says none."""
    path = Path(source)
    name = Path(path.stem) if path.suffix == ".gz" else path
    found = SUFFIXES.get(name.suffix.lower())
    if found is None or (found == "parquet" and name != path):
        raise UserError(
            f"{source}: its name does not say its format; names end in {', '.join(SUFFIXES)}, or add .gz "
            "(not after .parquet)"
        )
    return found


def iter_rows(
    source: str | Path,
    format: Format | None = None,
    encoding: str = "utf-8",
    *,
    separator: str | None = None,
    quoted: bool = True,
    columns: Sequence[str] | None = None,
    labels: str | Path | None = None,
    on_bad: OnBad = raise_bad,
) -> Iterator[Row]:
    """Stream the rows of a file, or of standard input (`-`: JSON Lines if it begins with `{`, else CSV).

    `separator` and `quoted` are for tables (GLUE's files know no quoting); `columns` names the columns of a
    file without a header; `labels` is the file whose lines are the labels of a `txt` file.

    Raises UserError, naming file and line, for a file that is missing, has the wrong encoding, or no usable
    header; a single row that is broken goes to `on_bad`.
    """
    if format is None and str(source) != STDIN:
        format = format_of(source)
    if format == "parquet":
        yield from _without_nul(_parquet(source), on_bad)
        return
    name = shown(source)
    with open_bytes(source) as stream:
        lines = iter_lines(stream, name, encoding)
        if format is None:
            format, lines = _sniffed(lines)
        rows: Iterator[Row]
        if format == "jsonl":
            rows = _jsonl(lines, name, on_bad)
        elif format == "txt" and labels is not None:
            rows = _parallel(lines, labels, name, encoding, columns)
        elif format == "txt":
            rows = _plain(lines, name, columns)
        elif format == "text@label":
            rows = _at(lines, name, columns, on_bad)
        else:
            rows = table_rows(lines, name, separator or ("\t" if format == "tsv" else ","), quoted, columns, on_bad)
        yield from _without_nul(rows, on_bad)


def _without_nul(rows: Iterator[Row], on_bad: OnBad) -> Iterator[Row]:
    for row in rows:
        broken = next((k for k, v in row.fields.items() if isinstance(v, str) and "\0" in v), None)
        if broken is None:
            yield row
        else:
            on_bad(f"{row.place}: the field '{brief(broken)}' holds a NUL byte; take it out (or --encoding)")


def _sniffed(lines: Iterator[str]) -> tuple[Format, Iterator[str]]:
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    found: Format = "jsonl" if seen and seen[-1].lstrip().startswith("{") else "csv"
    return found, chain(seen, lines)


def _jsonl(lines: Iterable[str], name: str, on_bad: OnBad) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            on_bad(f"{name} line {number}: is not JSON at column {error.colno} ({error.msg}); write one object")
            continue
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
            on_bad(f"{name} line {number}: is not JSON that can be read ({error}); write one object a line")
            continue
        if not isinstance(fields, dict):
            on_bad(f'{name} line {number}: is not a JSON object; each line is one, such as {{"text": "…"}}')
            continue
        yield Row(name, number, fields)


def _plain(lines: Iterable[str], name: str, columns: Sequence[str] | None) -> Iterator[Row]:
    (field,) = columns or ("text",)
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Row(name, number, {field: line.removesuffix("\r")})


def _parallel(
    texts: Iterable[str], labels: str | Path, name: str, encoding: str, columns: Sequence[str] | None
) -> Iterator[Row]:
    text_field, label_field = columns or ("text", "label")
    with open_bytes(labels) as stream:
        pairs = zip_longest(texts, iter_lines(stream, shown(labels), encoding))
        for number, (text, label) in enumerate(pairs, 1):
            if text is None or label is None:
                short, long = (name, labels) if text is None else (labels, name)
                raise UserError(f"{short} line {number}: there is none, but {long} has one; both need as many lines")
            yield Row(name, number, {text_field: text.removesuffix("\r"), label_field: label.strip()})


def _at(lines: Iterable[str], name: str, columns: Sequence[str] | None, on_bad: OnBad) -> Iterator[Row]:
    text_field, label_field = columns or ("text", "label")
    for number, line in enumerate(lines, 1):
        text, at, label = line.rpartition("@")
        if at:
            yield Row(name, number, {text_field: text, label_field: label.strip()})
        elif line.strip():
            on_bad(f"{name} line {number}: has no '@label' at its end; each line is text@label")


def _parquet(source: str | Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if str(source) == STDIN:
        raise UserError("standard input: Parquet cannot be streamed; save it as a file first")
    with open_bytes(source):  # for the same messages as other files that cannot be opened
        pass
    try:
        with pq.ParquetFile(source) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(str(source), number, fields, "row")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source}: is not a Parquet file that can be read ({brief(error)})") from error

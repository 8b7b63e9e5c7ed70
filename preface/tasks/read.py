"""Rows from data files, one at a time: CSV, TSV, JSON Lines, JSON, Parquet, plain lines, and `sentence@label`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, chain, product, zip_longest
from pathlib import Path
from typing import Any, Literal

from preface.errors import UserError
from preface.tasks.lines import LONGEST, STDIN, brief, iter_lines, listed, open_bytes, shown

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "txt", "text@label"]
"""`json` is one array of objects or texts; `txt` is one text a line; `text@label` is one text and, after the last @,
its label a line."""

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file and where it stands; `line` is counted from 1 (its first line, if it has several)."""

    file: str
    line: int
    fields: dict[str, Any]
    unit: str = "line"
    """What `line` counts: `row` in files that have no lines."""

    @property
    def place(self) -> str:
        """`reviews.csv line 17`, as messages begin."""
        return f"{self.file} {self.unit} {self.line}"

    def value(self, field: str) -> Any:
        """The value of a field; raises UserError, listing the fields there are, if the row does not have it."""
        try:
            return self.fields[field]
        except KeyError as error:
            raise UserError(
                f"{self.place}: has no field '{field}'; its fields are {listed(self.fields)}; name the right one"
            ) from error


def is_blank(value: Any) -> bool:
    """Whether a field holds nothing: null, NaN, or only white space."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


OnBad = Callable[[str], None]
"""Called with the message of each row that cannot be read; the row is left out if it returns."""


def raise_bad(message: str) -> None:
    """The strict `OnBad`: the first bad row is an error."""
    raise UserError(message)


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
    nested: Mapping[str, str] = {},
    need: Collection[str] = (),
    part: range | None = None,
    on_bad: OnBad = raise_bad,
) -> Iterator[Row]:
    """Stream the rows of a file, or of standard input (`-`: JSON Lines, a JSON array, or else CSV).

    `separator` and `quoted` are for tables (GLUE's files know no quoting); `columns` names the columns of a
    file without a header; `labels` is the file whose lines are the labels of a `txt` file; `nested` gives the place of
    each field in JSON's nested objects, where a list on the way makes a row of each item; `need` are fields of which a
    table's header must have one; `part`, of a Parquet file, are places counted from 0: others are left unread.

    Raises UserError, naming file and line, for a file that is missing, has the wrong encoding, or no usable
    header; a single row that is broken goes to `on_bad`.
    """
    if format is None and str(source) != STDIN:
        format = format_of(source)
    if format == "parquet":
        yield from _without_nul(_parquet(source, part), on_bad)
        return
    name = shown(source)
    with open_bytes(source) as stream:
        lines = iter_lines(stream, name, encoding)
        if format is None:
            format, lines = _sniffed(lines, need)
        rows: Iterator[Row]
        if format == "jsonl":
            rows = _jsonl(lines, name, on_bad)
        elif format == "json":
            rows = _json(lines, name, on_bad)
        elif format == "txt" and labels is not None:
            rows = _parallel(lines, labels, name, encoding, columns)
        elif format == "txt":
            rows = _plain(lines, name, columns)
        elif format == "text@label":
            rows = _at(lines, name, columns, on_bad)
        else:
            separator = separator or ("\t" if format == "tsv" else ",")
            records = _quoted(lines, separator) if quoted else _unquoted(lines, separator)
            rows = _table(records, name, columns, need, on_bad)
        if nested:
            rows = _unnested(rows, {field: tuple(place.split(".")) for field, place in nested.items()}, on_bad)
        yield from _without_nul(rows, on_bad)


def _without_nul(rows: Iterator[Row], on_bad: OnBad) -> Iterator[Row]:
    for row in rows:
        broken = next((k for k, v in row.fields.items() if isinstance(v, str) and "\0" in v), None)
        if broken is None:
            yield row
        else:
            on_bad(f"{row.place}: the field '{brief(broken)}' holds a NUL byte; take it out (or --encoding)")


def _unnested(rows: Iterable[Row], places: Mapping[str, tuple[str, ...]], on_bad: OnBad) -> Iterator[Row]:
    for row in rows:
        try:
            found = _fields_at(row.fields, places)
        except KeyError as error:
            on_bad(f"{row.place}: has no field '{error.args[0]}'; name the right place, or leave the row out")
            continue
        for fields in found:
            yield Row(row.file, row.line, fields, row.unit)


def _fields_at(value: Any, places: Mapping[str, tuple[str, ...]], above: str = "") -> list[dict[str, Any]]:
    """The fields at their places in a value, once for each item of the lists on the way. Raises KeyError."""
    if isinstance(value, list) and any(places.values()):
        return [fields for item in value for fields in _fields_at(item, places, above)]
    here = {field: value for field, place in places.items() if not place}
    below: dict[str, dict[str, tuple[str, ...]]] = {}
    for field, place in places.items():
        if place:
            below.setdefault(place[0], {})[field] = place[1:]
    parts = []
    for key, deeper in below.items():
        if not isinstance(value, dict) or key not in value:
            raise KeyError(f"{above}{key}")
        parts.append(_fields_at(value[key], deeper, f"{above}{key}."))
    return [{name: item for part in (here, *chosen) for name, item in part.items()} for chosen in product(*parts)]


def _sniffed(lines: Iterator[str], need: Collection[str]) -> tuple[Format, Iterator[str]]:
    """The format that the first line shows, and the lines."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    first = seen[-1].strip() if seen else ""
    found: Format = "csv"
    if first.startswith("{"):
        found = "jsonl"
    elif first.startswith("["):
        found = "json"
    elif first.startswith('"') and need:  # one text a line, or the header of a table with one column
        with suppress(ValueError):
            found = "csv" if json.loads(first) in need else "jsonl"
    return found, chain(seen, lines)


def _jsonl(lines: Iterable[str], name: str, on_bad: OnBad) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            on_bad(f"{name} line {number}: is not JSON at column {error.colno} ({error.msg}); write one object")
            continue
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
            on_bad(f"{name} line {number}: is not JSON that can be read ({error}); write one object a line")
            continue
        if isinstance(value, dict | str):
            yield Row(name, number, {"text": value} if isinstance(value, str) else value)
        else:
            on_bad(f'{name} line {number}: is not a JSON object; each line is one, such as {{"text": "…"}}')


def _json(lines: Iterable[str], name: str, on_bad: OnBad) -> Iterator[Row]:
    try:
        values = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name} line {error.lineno}: is not JSON at column {error.colno} ({error.msg}); write one array, "
            "or one object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: is not JSON that can be read ({error}); write one array of objects") from error
    if not isinstance(values, list):
        raise UserError(f"{name}: is no JSON array but {type(values).__name__}; write one array of objects")
    for number, value in enumerate(values, 1):
        if isinstance(value, dict | str):
            yield Row(name, number, {"text": value} if isinstance(value, str) else value, "item")
        else:
            on_bad(f'{name} item {number}: is neither an object, such as {{"text": "…"}}, nor a text')


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


def _table(
    records: Iterable[tuple[int, list[str] | str]],
    name: str,
    columns: Sequence[str] | None,
    need: Collection[str],
    on_bad: OnBad,
) -> Iterator[Row]:
    """The rows of numbered records: the first is the header unless `columns` names the fields; text is an error."""
    header = list(columns) if columns else None
    for number, cells in records:
        place = f"{name} line {number}"
        if header is None:
            header = _header(cells, place, need)
        elif isinstance(cells, str):
            on_bad(f"{place}: {cells}")
        elif len(cells) != len(header):
            on_bad(
                f"{place}: has {len(cells)} cells, but the header has {len(header)} ({listed(header)}); "
                "quote cells that hold the separator"
            )
        else:
            yield Row(name, number, dict(zip(header, cells, strict=True)))


def _header(cells: list[str] | str, place: str, need: Collection[str]) -> list[str]:
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
    if need and not set(need) & set(names):
        raise UserError(
            f"{place}: has no field '{next(iter(need))}'; its fields are {listed(names)}; name the right one, or give "
            'JSON Lines, such as {"text": "…"}'
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


def count_parquet(source: str | Path) -> int:
    """How many rows a Parquet file has. Raises UserError."""
    with _opened(source) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _opened(source: str | Path) -> Iterator[Any]:
    """A Parquet file; what is wrong with it, also where it is read within the block, is a UserError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if str(source) == STDIN:
        raise UserError("standard input: Parquet cannot be streamed; save it as a file first")
    with open_bytes(source):  # for the same messages as other files that cannot be opened
        pass
    try:
        with pq.ParquetFile(source) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source}: is not a Parquet file that can be read ({brief(error)})") from error


def _parquet(source: str | Path, part: range | None) -> Iterator[Row]:
    with _opened(source) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = [*accumulate(sizes)]
        wanted = range(sum(sizes)) if part is None else part
        groups = [g for g, end in enumerate(ends) if end > wanted.start and end - sizes[g] < wanted.stop]
        begin = ends[groups[0]] - sizes[groups[0]] if groups else 0
        for batch in file.iter_batches(batch_size=1024, row_groups=groups):
            here = range(max(wanted.start, begin), min(wanted.stop, begin + len(batch)))
            if here:
                found = batch.slice(here.start - begin, len(here)).to_pylist()
                for number, fields in enumerate(found, here.start + 1):
                    yield Row(str(source), number, fields, "row")
            begin += len(batch)
            if begin >= wanted.stop:
                return

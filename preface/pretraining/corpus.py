"""Documents to pre-train on: from files of lines, JSON Lines, tables and Parquet, or from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preface.errors import UserError
from preface.tasks.hub import NotOnHubError, hub_rows
from preface.tasks.lines import STDIN, open_bytes, refuse_half_characters, sha256_of
from preface.tasks.read import Row, format_of, is_blank, iter_rows
from preface.tasks.task import HubSource

HUB = "hf:"
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
"""The one tag that is common in what calls itself plain text."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it stands: `books.txt.gz line 17`."""

    text: str
    place: str


def iter_documents(sources: Sequence[str | Path], field: str = "text") -> Iterator[Document]:
    """The documents of all sources, in order; blank ones are left out, and `<br />` becomes a space.

    A source is a file (`.txt`: a document a line; `.jsonl`, `.csv`, `.tsv`: a document a row; all also with
    `.gz` or `.zst`; `.parquet`) or a data set on the hub, `hf:ID[:CONFIG[:SPLIT]]`, where CONFIG may be empty
    and SPLIT is train by default. `field` is the field of a row that holds the text.

    Raises UserError, naming file and line, for a source that is not there or cannot be read, and for a row
    whose field is missing or no text.
    """
    for source in sources:
        name, rows = _rows(source, field)
        for row in rows:
            text = _text(row, name)
            if text:
                yield Document(text, row.place)


def identity(source: str | Path) -> dict[str, str | None]:
    """What a source is: its name, and the sha256 of a file or the commit of a data set on the hub.

    Raises UserError if it is not there, or is standard input, which cannot be read twice.
    """
    if str(source) == STDIN:
        raise UserError("standard input: it is read more than once; save it as a file and name that")
    if str(source).startswith(HUB):
        return {"name": str(source), "revision": _hub_rows(str(source))[1]}
    with open_bytes(source):  # for the same messages as where it is read
        pass
    return {"name": str(source), "sha256": sha256_of(source)}


def _rows(source: str | Path, field: str) -> tuple[str, Iterator[Row]]:
    """The field that holds the text, and the rows."""
    if str(source).startswith(HUB):
        return field, _hub_rows(str(source))[0]
    format = format_of(str(source).removesuffix(".zst"))
    return "text" if format == "txt" else field, iter_rows(source, format)


def _hub_rows(source: str) -> tuple[Iterator[Row], str | None]:
    id, config, split, *rest = (*source.removeprefix(HUB).split(":"), "", "")
    if not id or len(rest) > 2:
        raise UserError(f"{source}: is no data set of the hub; write hf:ID, hf:ID:CONFIG or hf:ID:CONFIG:SPLIT")
    try:
        return hub_rows(HubSource(id=id, config=config or None, splits={}), split or "train", None)
    except NotOnHubError as error:
        raise UserError(f"{source}: {error}; check its name and split, or give a file") from error


def _text(row: Row, field: str) -> str:
    value = row.value(field)
    if is_blank(value):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{row.place}: the field '{field}' is no text but {type(value).__name__}; name another field")
    refuse_half_characters(value, row.place, [field])
    return BREAK.sub(" ", value).strip()

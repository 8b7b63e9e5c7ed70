"""From a row to an example: the text that the model reads and the word that it should answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from preface.errors import UserError
from preface.tasks.row import Row
from preface.tasks.task import Task
from preface.tasks.wording import listed


@dataclass(frozen=True, slots=True)
class Example:
    """One text, after the task's template, and its label word; None if it is not labelled."""

    text: str
    label: str | None


def label_value(value: Any) -> str:
    """A label as text: stripped, and `1` for 1.0, which tables make of whole numbers beside a null."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def is_blank(value: Any) -> bool:
    """Whether a field holds nothing: null, NaN, or only white space."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def field_of(row: Row, field: str) -> Any:
    """The value of a field; raises UserError, listing the fields there are, if the row does not have it."""
    try:
        return row.fields[field]
    except KeyError as error:
        raise UserError(
            f"{row.place}: has no field '{field}'; its fields are {listed(row.fields)}; name the right one"
        ) from error


def text_of(task: Task, row: Row) -> str:
    """The text of a row.

    Raises UserError, naming file, line and field, if a field is missing or blank, or is no text (numbers are
    taken in the task's input fields).
    """
    pieces = []
    for literal, field in task.pieces:
        pieces.append(literal)
        if field == "text":
            pieces.append(" ".join(_input(row, name) for name in task.fields.input))
        elif field is not None:
            pieces.append(_input(row, field) if field in task.fields.input else _text(row, field))
    text = "".join(pieces)
    for old, new in task.replace.items():
        text = text.replace(old, new)
    text = text.strip()
    if not text:
        raise UserError(f"{row.place}: the text is empty once the task's replacements are made; leave the row out")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # JSON can write half of a surrogate pair, which no tokenizer reads
            fields = listed(task.fields.input)
            raise UserError(f"{row.place}: the field {fields} holds half a character; correct it") from error
    return text


def label_of(task: Task, row: Row) -> str | None:
    """The label word of a row, None if the task leaves rows with this label out.

    Raises UserError, naming file, line and field, if the field is missing or blank, or its label is unknown.
    """
    field = task.fields.label
    value = field_of(row, field)
    if is_blank(value):
        raise UserError(f"{row.place}: the field '{field}' is empty; each row needs a label")
    if isinstance(value, list | dict):
        raise UserError(f"{row.place}: the field '{field}' is a {type(value).__name__}; a label is one value")
    try:
        return task.labels[label_value(value)]
    except KeyError as error:
        raise UserError(
            f"{row.place}: the field '{field}' is {listed([label_value(value)])}; "
            f"known labels are {listed(task.labels)}"
        ) from error


def _input(row: Row, field: str) -> str:
    value = field_of(row, field)
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_blank(value):
        return str(value)
    return _text(row, field)


def _text(row: Row, field: str) -> str:
    value = field_of(row, field)
    if is_blank(value):
        raise UserError(f"{row.place}: the field '{field}' is empty; fill it or leave the row out")
    if not isinstance(value, str):
        raise UserError(f"{row.place}: the field '{field}' is no text but {type(value).__name__}; make it text")
    return value

"""A user's own data file as a task: its labels as they are, a held-out tenth as validation, all as test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from preface.errors import UserError
from preface.tasks.example import field_of, is_blank, label_value
from preface.tasks.read import format_of, iter_rows
from preface.tasks.registry import validated
from preface.tasks.task import Task
from preface.tasks.wording import STDIN, listed

INPUT_NAMES = ("text", "sentence", "input", "content")
"""Fields that are taken for the text, the first that a file has, if none is named."""
LABEL_NAME = "label"
MOST_LABELS = 500
"""With more different values a field is a score or an identity, hardly a label."""


def data_task(
    path: Path,
    *,
    input: str | Sequence[str] | None = None,
    label: str | None = None,
    label_words: Mapping[str, str | None] | None = None,
    encoding: str | None = None,
) -> Task:
    """The task of a data file; the file is read once for its labels unless `label_words` gives them.

    Raises UserError if the file cannot be read, has no rows, not the fields, or labels that make no task.
    """
    if str(path) == STDIN:
        raise UserError("standard input: cannot be a task, since it can be read only once; save it as a file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a data file, or give the folder as --data with a task's name")
    format_of(path)
    encoding = encoding or "utf-8"
    fields = _field_names(path, encoding)
    inputs = (input,) if isinstance(input, str) else tuple(input or ()) or _first(path, INPUT_NAMES, fields, "--input")
    label = label or _first(path, (LABEL_NAME,), fields, "--label")[0]
    for name in (*inputs, label):
        if name not in fields:
            raise UserError(f"{path}: has no field '{name}'; its fields are {listed(fields)}")
    if label_words is None:
        label_words = {value: value for value in _label_values(path, label, encoding)}
    if len(set(label_words.values()) - {None}) < 2:
        raise UserError(
            f"{path}: only one label, {listed(label_words)}, in the field '{label}'; a task needs two "
            "or more (--label names the field, --label-words the labels)"
        )
    definition = {
        "name": path.name,
        "description": f"own data from {path}",
        "source": {"files": {"parts": {"all": [str(path.resolve())]}, "encoding": encoding}},
        "fields": {"input": inputs, "label": label},
        "labels": dict(label_words),
        "splits": {
            "train": {"part": "all"},
            "validation": {"part": "all", "share": 0.1, "size": 1000},
            "test": {"part": "all", "apart": False},
        },
        "folder": path.resolve().parent,
    }
    return validated(definition, str(path))


def _field_names(path: Path, encoding: str) -> tuple[str, ...]:
    """The fields of the first row that can be read."""
    bad: list[str] = []
    for row in iter_rows(path, encoding=encoding, on_bad=bad.append):
        return tuple(row.fields)
    raise UserError(bad[0] if bad else f"{path}: an empty split: the file has no rows; give a file with labelled rows")


def _first(path: Path, names: tuple[str, ...], fields: tuple[str, ...], option: str) -> tuple[str]:
    for name in names:
        if name in fields:
            return (name,)
    if len(fields) == 1 and ";" in fields[0]:
        raise UserError(f"{path}: seems to be separated by semicolons; save it with commas or, as .tsv, with tabs")
    raise UserError(f"{path}: no field is called '{names[0]}', name one with {option}; its fields are {listed(fields)}")


def _label_values(path: Path, label: str, encoding: str) -> list[str]:
    """The different labels, sorted; rows that cannot be read are left for the time when splits are loaded."""
    values: set[str] = set()
    for row in iter_rows(path, encoding=encoding, on_bad=lambda message: None):
        if not is_blank(row.fields.get(label)):
            values.add(label_value(field_of(row, label)))
        if len(values) > MOST_LABELS:
            raise UserError(
                f"{path}: the field '{label}' has more than {MOST_LABELS} different values; is it the label?"
            )
    if not values:
        raise UserError(f"{path}: the field '{label}' is empty in each row; name the label's field with --label")
    return sorted(values)

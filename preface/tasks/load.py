"""Load tasks, their splits, and examples to predict on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from preface.errors import UserError
from preface.tasks.draw import ORDER, draw
from preface.tasks.example import Example, is_blank, label_value, text_of
from preface.tasks.find import Source, read_part
from preface.tasks.own import INPUT_NAMES, data_task
from preface.tasks.read import SUFFIXES, Format, iter_rows
from preface.tasks.registry import find_task, is_yaml, read_task, registered, split_reference, validated
from preface.tasks.row import OnBad, Row, raise_bad
from preface.tasks.task import SplitName, Task


@dataclass(frozen=True)
class Split:
    """The examples of one split of a task, and what they were read from."""

    task: str
    split: SplitName
    examples: list[Example]
    sources: list[Source]
    skipped: list[str]
    """Messages of the bad rows left out of the part that the split is drawn from."""


def load_task(
    spec: str | Path | Task,
    *,
    input: str | Sequence[str] | None = None,
    label: str | None = None,
    label_words: Mapping[str, str | None] | None = None,
    encoding: str | None = None,
) -> Task:
    """The task that a reference names: `NAME`, a YAML file, both also with `:option=value,…`, or a data file.

    `input` and `label` name the fields of a data file (by default `text` or a like name, and `label`),
    `label_words` gives the word of each label value, None to leave such rows out; for other tasks these
    override what the task says. Raises UserError if there is no such task, option, file or field.
    """
    if isinstance(spec, Task):
        task = spec
    else:
        base, options = (str(spec), None) if os.path.isfile(spec) else split_reference(str(spec))
        if base in registered():
            task = read_task(find_task(base), options)
        elif is_yaml(base):
            task = read_task(Path(base), options)
        elif _is_path(base):
            return data_task(Path(base), input=input, label=label, label_words=label_words, encoding=encoding)
        else:
            find_task(base)
    return _overridden(task, input, label, label_words, encoding)


def load_split(
    task: str | Path | Task, split: str, *, data: str | Path | None = None, skip_bad_rows: bool = False
) -> Split:
    """Load a split. `data` is the folder of data files, by default what PREFACE_DATA names.

    A place is looked for in this order: the data folder, a YAML task's own folder, the hub, the package. With
    `skip_bad_rows`, rows that cannot be used are left out and listed; otherwise the first of them raises.

    Raises UserError if the task has no such split, its rows are found nowhere, a row is bad, no row is left,
    or train has only one label.
    """
    task = load_task(task)
    rule = next((rule for name, rule in task.splits.items() if name == split), None)
    if rule is None:
        raise UserError(f"{task.name} has no split '{split}'; it has {', '.join(task.splits)}")
    name: SplitName = next(known for known in get_args(SplitName) if known == split)
    read = cache(lambda part: read_part(task, part, data, skip_bad_rows))
    own = read(rule.part)

    def examples_of(part: str) -> list[Example]:
        try:
            return read(part).examples
        except UserError as error:
            raise UserError(f"{error}; it is needed to keep its texts out of {name}") from error

    examples = draw(task, name, examples_of)
    if not examples:
        before = [n for n in ORDER[: ORDER.index(name)] if n in task.splits and task.splits[n].part == rule.part]
        drawn = f", and {' and '.join(before)} took theirs first" if before else ""
        raise UserError(
            f"{task.name}: an empty split: no rows are left for {name} (its part '{rule.part}' has "
            f"{len(own.examples)} usable rows{drawn}); give more data, other options or another task"
        )
    labels = {example.label for example in examples}
    if name == "train" and len(labels) < 2:
        raise UserError(f"{task.name}: only one label, '{labels.pop()}', in {name}; training needs two or more")
    return Split(task.name, name, examples, own.sources, own.skipped)


def iter_examples(
    task: Task,
    source: str | Path | Iterable[Row],
    *,
    skip_bad_rows: bool = False,
    on_skip: Callable[[str], None] | None = None,
    format: Format | None = None,
    encoding: str = "utf-8",
) -> Iterator[tuple[Row, Example]]:
    """Stream examples from a file, from standard input (`-`) or of rows, labelled or not, as they arrive.

    If a file has not the task's input field, the first usual name for a text that it has is taken. A label is
    None where the row has none that the task knows, by its value or its word. With `skip_bad_rows`, rows that
    cannot be used are left out, and `on_skip` gets their messages. Raises UserError as `load_split` does.
    """
    on_bad: OnBad = (on_skip or (lambda message: None)) if skip_bad_rows else raise_bad
    fitted: Task | None = None
    rows = iter_rows(source, format, encoding, on_bad=on_bad) if isinstance(source, str | Path) else source
    for row in rows:
        if fitted is None:
            fitted = _fitted(task, row)
        try:
            example = Example(text_of(fitted, row), _known_label(fitted, row))
        except UserError as error:
            on_bad(str(error))
        else:
            yield row, example


def _fitted(task: Task, row: Row) -> Task:
    names = [name for name in INPUT_NAMES if name in row.fields]
    if len(task.fields.input) > 1 or task.fields.input[0] in row.fields or not names:
        return task
    return _overridden(task, names[0], None, None, None)


def _known_label(task: Task, row: Row) -> str | None:
    value = row.fields.get(task.fields.label)
    if is_blank(value):
        return None
    text = label_value(value)
    return task.labels.get(text, text if text in task.label_words else None)


def _is_path(reference: str) -> bool:
    if not reference:
        return False
    path = Path(reference)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return os.path.exists(path) or reference == "-" or suffix.lower() in SUFFIXES


def _overridden(
    task: Task,
    input: str | Sequence[str] | None,
    label: str | None,
    label_words: Mapping[str, str | None] | None,
    encoding: str | None,
) -> Task:
    if input is None and label is None and label_words is None and encoding is None:
        return task
    definition = task.model_dump(exclude_unset=True)
    if input is not None:
        if not any(field == "text" for _, field in task.pieces):
            raise UserError(f"{task.name}: its template {task.template!r} names its fields, so the input cannot be set")
        definition["fields"]["input"] = input if isinstance(input, str) else tuple(input)
    if label is not None:
        definition["fields"]["label"] = label
    if label_words is not None:
        definition["labels"] = dict(label_words)
    if encoding is not None and definition["source"].get("files"):
        definition["source"]["files"]["encoding"] = encoding
    return validated(definition, task.name)

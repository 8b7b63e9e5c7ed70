"""Load tasks by reference: the name of a shipped one, a YAML file, or a data file of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preface.errors import UserError
from preface.options import validated
from preface.tasks.example import Template
from preface.tasks.label_sets import items_of
from preface.tasks.lines import STDIN, listed
from preface.tasks.mixture import PLUS, mixture_of
from preface.tasks.read import SUFFIXES, format_of, is_blank, iter_rows
from preface.tasks.registry import is_yaml, read_task, registered, split_reference, task_of, unknown_task
from preface.tasks.task import CHAT, CUE, SEPARATOR, WHOLE, Task, label_value

INPUT_NAMES = ("text", "sentence", "input", "content")
"""Fields that are taken for the text, the first that a file has, if none is named."""
LABEL_NAME = "label"
OWN_DATA = "own data from "
"""How the description of a data file's task begins; the file's name follows."""
MOST_LABELS = 500
"""With more different values a field is a score or an identity, hardly a label."""


class FileOptions(BaseModel):
    """What a user says of a data file, or in place of what a task says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: tuple[str, ...] | None = Field(None, description="The field, or fields, of a data file with the text.")
    label: str | None = Field(None, description="A data file's field with the label.")
    label_words: dict[str, str | None] | None = Field(
        None, description="Words of the labels: `0=negative 1=positive`. Default: the labels as they are."
    )
    free_text: bool = Field(
        False, description="A data file's label is an answer to be written, not one of some labels."
    )
    multi_label: bool = Field(
        False,
        description="A text may have any number of labels, in their field a list (which says so by itself), or a text "
        "with ; between them.",
    )
    template: str | None = Field(
        None, description="The text of an example: `{premise} … {hypothesis}`; or chat: in the model's chat template."
    )
    cue: str | None = Field(
        None, min_length=1, description="What stands between a text and its answer, for decoder-only models."
    )
    wording: str | None = Field(
        None,
        min_length=1,
        description="What stands around each text that a prompt reads, such as `sentiment: {text}`; best: the one of "
        "the task's instructions that does best without a prompt.",
    )
    validation: Path | None = Field(None, description="A data file's development rows. Default: a tenth is held out.")
    test: Path | None = Field(None, description="A data file's test rows. Default: all rows of the data file.")
    encoding: str | None = Field(None, description="Of a data file. Default: UTF-8.")

    @field_validator("input", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _labels_or_text(self) -> FileOptions:
        if self.free_text and self.label_words is not None:
            raise ValueError("label_words are for labels, and with free_text there are none; give one of the two")
        if self.free_text and self.multi_label:
            raise ValueError("multi_label is for labels, and with free_text there are none; give one of the two")
        return self

    @model_validator(mode="before")
    @classmethod
    def _chat(cls, values: Any) -> Any:
        """The chat template is one of the model, not of the task: it stands in place of a cue."""
        if isinstance(values, dict) and values.get("template") == CHAT:
            return values | {"template": None, "cue": CHAT}
        return values

    @property
    def names(self) -> tuple[str, ...]:
        """What the template names; raises UserError if it is broken."""
        return Template.of(self.template or "{text}").names


def load_task(spec: str | Path | Task, **options: Any) -> Task:
    """The task that a reference names: `NAME`, a YAML file, both also with `:option=value,…`, a data file, or several
    of them with `+` in between: a mixture.

    `options` are fields of `FileOptions`: `input` and `label` name the fields of a data file (by default the fields
    that `template` names, or `text` or a like name, and `label`), `label_words` gives the word of each label value,
    None to leave such rows out; for other tasks these override what the task says. `validation` and `test` are files of
    these splits beside a data file, of which else a tenth is held out, and all rows are the test. Raises UserError if
    there is no such task, option, file or field.
    """
    own = validated(FileOptions, options)
    if isinstance(spec, Task):
        return _overridden(spec, own)
    base, choices = (str(spec), None) if os.path.isfile(spec) else split_reference(str(spec))
    if is_mixture(base):
        return _overridden(mixture_of([load_task(part) for part in str(spec).split(PLUS)]), own)
    if base in registered():
        return _overridden(read_task(registered()[base], choices), own)
    if is_yaml(base):
        return _overridden(read_task(Path(base), choices), own)
    if not _is_path(base):
        raise unknown_task(base)
    return _data_task(Path(base), own)


def is_mixture(reference: str) -> bool:
    """Whether it names several tasks, and not a file with such a name."""
    return PLUS in reference and not os.path.exists(reference)


def _overridden(task: Task, own: FileOptions) -> Task:
    if own == FileOptions():
        return task
    for option, given in (("free-text", own.free_text), ("multi-label", own.multi_label)):
        if given:
            raise UserError(f"{option}: is for a data file; {task.name} says itself what its answers are")
    if file := own.validation or own.test:
        raise UserError(f"{file}: is for a data file; {task.name} has splits of its own")
    if task.mixture and own != FileOptions(cue=own.cue, wording=own.wording):
        raise UserError(f"{task.name}: of a mixture only cue and wording can be set; its tasks say the rest themselves")
    definition = task.model_dump(exclude_unset=True)
    inputs = own.input
    if own.template is not None:
        definition["template"] = own.template
        definition.pop("instructions", None)  # they ask with the fields of the template that this replaces
        inputs = inputs or (None if "text" in own.names else own.names)
    elif inputs is not None and "text" not in task.layout.names:
        raise UserError(
            f"{task.name}: its template {task.template!r} names its fields, so the input cannot be set; give a "
            "--template with those of the file"
        )
    if inputs is not None:
        definition["fields"]["input"] = inputs
    if own.cue is not None:
        definition["cue"] = own.cue
    if own.wording is not None:
        definition["wording"] = own.wording
    if own.label is not None:
        definition["fields"]["label"] = own.label
    if own.label_words is not None:
        definition["labels"] = dict(own.label_words)
    if own.encoding is not None and definition["source"].get("files"):
        definition["source"]["files"]["encoding"] = own.encoding
    return task_of(definition, task.name)


def _is_path(reference: str) -> bool:
    if not reference:
        return False
    path = Path(reference)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return os.path.exists(path) or reference == STDIN or suffix.lower() in SUFFIXES


def _data_task(path: Path, own: FileOptions) -> Task:
    """The task of a data file: its labels as they are, a held-out tenth as validation, all rows as test.

    The file is read once for its labels unless they are given.
    """
    if str(path) == STDIN:
        raise UserError("standard input: cannot be a task, since it can be read only once; save it as a file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a data file, or give the folder as --data with a task's name")
    encoding = own.encoding or "utf-8"
    first = first_row(path, encoding)
    fields = tuple(first)
    inputs = own.input or (_first(path, INPUT_NAMES, fields, "--input") if "text" in own.names else own.names)
    label = own.label or _first(path, (LABEL_NAME,), fields, "--label")[0]
    multi_label = own.multi_label or (not own.free_text and isinstance(first.get(label), list))
    parts = {"all": path}
    rules: dict[str, dict[str, Any]] = {
        "train": {"part": "all"},
        "validation": {"part": "all", "share": 0.1, "size": 1000},
        "test": {"part": "all", "apart": False},
    }
    for split, file in (("validation", own.validation), ("test", own.test)):
        if file is not None:
            parts[split] = file
            rules[split] = {"part": split}
    for file in parts.values():
        there = tuple(first_row(file, encoding))
        for name in (*inputs, *(name for name in own.names if name != "text"), label):
            if name not in there:
                raise UserError(f"{file}: has no field '{name}'; its fields are {listed(there)}")
    definition = {
        "name": path.name,
        "description": f"{OWN_DATA}{path.name}",
        "source": {
            "files": {"parts": {part: [str(file.resolve())] for part, file in parts.items()}, "encoding": encoding}
        },
        "fields": {"input": inputs, "label": label},
        "template": own.template or "{text}",
        "cue": own.cue or CUE,
        "wording": own.wording or WHOLE,
        "labels": {} if own.free_text else _labels(path, label, encoding, own.label_words, multi_label),
        "multi_label": multi_label,
        "metric": "exact_text+text_f1" if own.free_text else "micro_f1" if multi_label else "accuracy",
        "splits": rules,
        "folder": path.resolve().parent,
    }
    return task_of(definition, str(path))


def _labels(
    path: Path, label: str, encoding: str, given: Mapping[str, str | None] | None, multi_label: bool
) -> dict[str, str | None]:
    """The word of each label: as given, or as it is in the file."""
    values = [] if given is not None else _label_values(path, label, encoding, multi_label)
    labels = given if given is not None else {value: value for value in values}
    words = dict.fromkeys(word for word in labels.values() if word is not None)
    if len(words) >= 2:
        return dict(labels)
    if given is None:
        raise UserError(
            f"{path}: only one label, {listed(words)}, in the field '{label}'; a task needs two or more (--label names "
            "the field, --label-words the labels)"
        )
    raise UserError(
        f"{path}: --label-words leaves fewer than two different words, {listed(words)}; a task needs two or more, and "
        f"{listed(labels)} may each have one of its own"
    )


def first_row(path: Path, encoding: str) -> dict[str, Any]:
    """The fields of the first row that can be read."""
    format_of(path)
    bad: list[str] = []
    for row in iter_rows(path, encoding=encoding, on_bad=bad.append):
        return row.fields
    raise UserError(bad[0] if bad else f"{path}: an empty split: the file has no rows; give a file with labelled rows")


def _first(path: Path, names: tuple[str, ...], fields: tuple[str, ...], option: str) -> tuple[str]:
    for name in names:
        if name in fields:
            return (name,)
    if len(fields) == 1 and ";" in fields[0]:
        raise UserError(f"{path}: seems to be separated by semicolons; save it with commas or, as .tsv, with tabs")
    raise UserError(f"{path}: no field is called '{names[0]}', name one with {option}; its fields are {listed(fields)}")


def _label_values(path: Path, label: str, encoding: str, multi_label: bool) -> list[str]:
    """The different labels, sorted; rows that cannot be read are left for the time when splits are loaded."""
    values: set[str] = set()
    for row in iter_rows(path, encoding=encoding, on_bad=lambda message: None):
        value = row.fields.get(label)
        for item in items_of(value, SEPARATOR) if multi_label else [value]:
            if not is_blank(item) and label_value(item).lower() != "nan":  # as tables write that there is none
                values.add(label_value(item))
        if len(values) > MOST_LABELS:
            raise UserError(
                f"{path}: the field '{label}' has more than {MOST_LABELS} different values; is it the label? If "
                "answers are to be written, give --free-text"
            )
    if not values:
        raise UserError(f"{path}: the field '{label}' is empty in each row; name the label's field with --label")
    return sorted(values)

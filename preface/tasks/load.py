"""Tasks by reference: shipped ones (a YAML file each, in `definitions/`), a user's own YAML file, or a data file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from preface.errors import UserError, first_line
from preface.tasks.example import Template
from preface.tasks.lines import STDIN, brief, listed
from preface.tasks.read import SUFFIXES, format_of, is_blank, iter_rows
from preface.tasks.task import Option, Task, label_value

DEFINITIONS = Path(__file__).parent / "definitions"
INPUT_NAMES = ("text", "sentence", "input", "content")
"""Fields that are taken for the text, the first that a file has, if none is named."""
LABEL_NAME = "label"
MOST_LABELS = 500
"""With more different values a field is a score or an identity, hardly a label."""


def load_task(
    spec: str | Path | Task,
    *,
    input: str | Sequence[str] | None = None,
    label: str | None = None,
    label_words: Mapping[str, str | None] | None = None,
    encoding: str | None = None,
    template: str | None = None,
) -> Task:
    """The task that a reference names: `NAME`, a YAML file, both also with `:option=value,…`, or a data file.

    `input` and `label` name the fields of a data file (by default the fields that `template` names, or `text` or a
    like name, and `label`), `label_words` gives the word of each label value, None to leave such rows out; for other
    tasks these override what the task says. Raises UserError if there is no such task, option, file or field.
    """
    inputs = (input,) if isinstance(input, str) else None if input is None else tuple(input)
    own = _Own(inputs, label, label_words, encoding, template)
    if isinstance(spec, Task):
        return _overridden(spec, own)
    base, options = (str(spec), None) if os.path.isfile(spec) else split_reference(str(spec))
    if base in registered():
        return _overridden(read_task(registered()[base], options), own)
    if is_yaml(base):
        return _overridden(read_task(Path(base), options), own)
    if not _is_path(base):
        raise _unknown(base)
    return _data_task(Path(base), own)


@dataclass(frozen=True)
class _Own:
    """What a user says of a data file, or in place of what a task says."""

    input: tuple[str, ...] | None
    label: str | None
    label_words: Mapping[str, str | None] | None
    encoding: str | None
    template: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """What the template names; raises UserError if it is broken."""
        return Template.of(self.template or "{text}").names


def _overridden(task: Task, own: _Own) -> Task:
    if own == _Own(None, None, None, None, None):
        return task
    definition = task.model_dump(exclude_unset=True)
    inputs = own.input
    if own.template is not None:
        definition["template"] = own.template
        definition.pop("instructions", None)  # they ask with the fields of the template that this replaces
        inputs = inputs or (None if "text" in own.names else own.names)
    elif inputs is not None and "text" not in task.wording.names:
        raise UserError(
            f"{task.name}: its template {task.template!r} names its fields, so the input cannot be set; give a "
            "--template with those of the file"
        )
    if inputs is not None:
        definition["fields"]["input"] = inputs
    if own.label is not None:
        definition["fields"]["label"] = own.label
    if own.label_words is not None:
        definition["labels"] = dict(own.label_words)
    if own.encoding is not None and definition["source"].get("files"):
        definition["source"]["files"]["encoding"] = own.encoding
    return validated(definition, task.name)


def _is_path(reference: str) -> bool:
    if not reference:
        return False
    path = Path(reference)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return os.path.exists(path) or reference == STDIN or suffix.lower() in SUFFIXES


def _data_task(path: Path, own: _Own) -> Task:
    """The task of a data file: its labels as they are, a held-out tenth as validation, all rows as test.

    The file is read once for its labels unless they are given.
    """
    if str(path) == STDIN:
        raise UserError("standard input: cannot be a task, since it can be read only once; save it as a file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a data file, or give the folder as --data with a task's name")
    format_of(path)
    encoding = own.encoding or "utf-8"
    fields = _field_names(path, encoding)
    inputs = own.input or (_first(path, INPUT_NAMES, fields, "--input") if "text" in own.names else own.names)
    label = own.label or _first(path, (LABEL_NAME,), fields, "--label")[0]
    for name in (*inputs, *(name for name in own.names if name != "text"), label):
        if name not in fields:
            raise UserError(f"{path}: has no field '{name}'; its fields are {listed(fields)}")
    labels = own.label_words
    if labels is None:
        labels = {value: value for value in _label_values(path, label, encoding)}
    if len(words := dict.fromkeys(word for word in labels.values() if word is not None)) < 2:
        raise UserError(
            f"{path}: only one label, {listed(words)}, in the field '{label}'; a task needs two or more (--label names "
            "the field, --label-words the labels)"
            if own.label_words is None
            else f"{path}: --label-words leaves fewer than two different words, {listed(words)}; a task needs two or "
            f"more, and {listed(labels)} may each have its own"
        )
    definition = {
        "name": path.name,
        "description": f"own data from {path}",
        "source": {"files": {"parts": {"all": [str(path.resolve())]}, "encoding": encoding}},
        "fields": {"input": inputs, "label": label},
        "labels": dict(labels),
        "splits": {
            "train": {"part": "all"},
            "validation": {"part": "all", "share": 0.1, "size": 1000},
            "test": {"part": "all", "apart": False},
        },
        "folder": path.resolve().parent,
    }
    return validated(definition | ({} if own.template is None else {"template": own.template}), str(path))


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
        value = row.fields.get(label)
        if not is_blank(value) and label_value(value).lower() != "nan":  # as tables write that there is none
            values.add(label_value(value))
        if len(values) > MOST_LABELS:
            raise UserError(
                f"{path}: the field '{label}' has more than {MOST_LABELS} different values; is it the label?"
            )
    if not values:
        raise UserError(f"{path}: the field '{label}' is empty in each row; name the label's field with --label")
    return sorted(values)


@cache
def registered() -> dict[str, Path]:
    """The YAML files of the tasks that come with Preface, by name."""
    return {path.stem: path for path in sorted(DEFINITIONS.glob("*.yaml"))}


def split_reference(reference: str) -> tuple[str, str | None]:
    """Divide `NAME:option=value,…` or `file.yaml:option=value,…` at the colon; others have no options."""
    base, colon, options = reference.rpartition(":")
    if colon and (base in registered() or is_yaml(base)):
        return base, options
    return reference, None


def is_yaml(path: str | Path) -> bool:
    """Whether this is the name of a YAML file."""
    return Path(path).suffix.lower() in (".yaml", ".yml")


def parse_options(text: str, reference: str) -> dict[str, str]:
    """Read `option=value,option=value`; raises UserError if it is written otherwise."""
    chosen: dict[str, str] = {}
    for item in text.split(","):
        name, equals, value = (piece.strip() for piece in item.partition("="))
        if not (name and equals and value) or name in chosen:
            raise UserError(f"{reference}: options are written NAME:option=value,option=value, each option once")
        chosen[name] = value
    return chosen


def read_task(path: Path, options: str | None = None) -> Task:
    """Read a task from its YAML file and apply options to it.

    Raises UserError, naming the file and the place in it, if the file is missing, no YAML or no task, or has
    no such option or value.
    """
    definition = _read_yaml(path)
    own = path.parent == DEFINITIONS
    reference = path.stem if own else str(path)
    chosen = parse_options(options, f"{reference}:{options}") if options is not None else {}
    try:
        known = {name: Option.model_validate(value) for name, value in (definition.get("options") or {}).items()}
    except (ValidationError, AttributeError) as error:
        raise UserError(f"{path}: options: {_in_words(error)}") from error
    for name in chosen:
        if name not in known:
            have = "; ".join(f"{n}={'|'.join(o.values)}" for n, o in known.items())
            raise UserError(f"{reference} has no option '{name}'; " + (f"it has {have}" if have else "it has none"))
    changed = []
    for name, option in known.items():
        value = chosen.get(name, option.default)
        if value not in option.values:
            raise UserError(f"{reference}: {name}={value} is not known; values are {', '.join(option.values)}")
        definition = _merged(definition, option.values[value])
        if value != option.default:
            changed.append(f"{name}={value}")
    if changed:
        definition["name"] = f"{definition.get('name')}:{','.join(changed)}"
    if not own:
        definition["folder"] = path.parent.resolve()
    return validated(definition, str(path))


def validated(definition: dict[str, Any], place: str) -> Task:
    """The task of a definition; raises UserError with one line, which begins with `place`, if it is none."""
    try:
        return Task.model_validate(definition)
    except ValidationError as error:
        raise UserError(f"{place}: {_in_words(error)}") from error


def _unknown(name: str) -> UserError:
    near = get_close_matches(name.split(":")[0], registered(), n=1)
    return UserError(
        f"no task is called '{brief(name)}'{f', did you mean {near[0]}' if near else ''}? Give one of "
        f"{', '.join(registered())}, or the path of a YAML file or of a data file ({', '.join(SUFFIXES)})"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: is not YAML ({problem}); check indentation and quotes there") from error
    if not isinstance(definition, dict):
        raise UserError(f"{path}: is not a task; a task has name, source, fields, labels and splits")
    return _text_keys(definition)


def _text_keys(value: Any) -> Any:
    """The same with `"0":` for `0:`, which YAML reads as a number and JSON would not give back as one."""
    if isinstance(value, dict):
        numbers = (int, float)
        return {
            str(key) if isinstance(key, numbers) and not isinstance(key, bool) else key: _text_keys(item)
            for key, item in value.items()
        }
    return [_text_keys(item) for item in value] if isinstance(value, list) else value


def _merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `override`, which go into dictionaries and take the place of all else."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _in_words(error: Exception) -> str:
    """A validation error as one line: the first problems, each with its place."""
    if not isinstance(error, ValidationError):
        return "must be a dictionary"
    words = []
    for problem in error.errors()[:3]:
        place = ".".join(str(key) for key in problem["loc"] if key != "[key]")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "is no key of a task; check its spelling"
        words.append(f"{place}: {message}" if place else message)
    return " ".join("; ".join(words).split())

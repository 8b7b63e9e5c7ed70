"""Tasks by name: each YAML file in `definitions/` is one, and a user's own YAML file is one too."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from preface.errors import UserError, first_line
from preface.tasks.lines import brief
from preface.tasks.read import SUFFIXES
from preface.tasks.task import Option, Task

DEFINITIONS = Path(__file__).parent / "definitions"


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
    return task_of(definition, str(path))


def task_of(definition: dict[str, Any], place: str) -> Task:
    """The task of a definition; raises UserError with one line, which begins with `place`, if it is none."""
    try:
        return Task.model_validate(definition)
    except ValidationError as error:
        raise UserError(f"{place}: {_in_words(error)}") from error


def unknown_task(name: str) -> UserError:
    """The error for a name that no task has, with what is near."""
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

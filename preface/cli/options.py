"""Options made from configuration models, so that an option is written once: as a field with its description."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from preface.errors import UserError

Fields = Mapping[str, FieldInfo]

SPELLINGS = {
    "learning_rates": ("--learning-rate", "RATE …"),
    "sites": ("--sites", "SITE …"),
    "input": ("--input", "FIELD …"),
    "label_words": ("--label-words", "LABEL=WORD …"),
    "objectives": ("--objective", "NAME[=WEIGHT] …"),
    "tasks": ("--tasks", "TASK …"),
    "keep_out": ("--keep-out", "TASK …"),
    "probes": ("--probe", "TASK …"),
    "tie_embeddings": ("--tie-embeddings/--untie-embeddings", None),
}
"""Where an option is not simply its field's name, and the value as help shows it: `…` where several may follow."""


def fields(*models: type[BaseModel], only: Collection[str] | None = None, without: Collection[str] = ()) -> Fields:
    """The fields of some models together, those of the first before others of the same name."""
    found: dict[str, FieldInfo] = {}
    for model in models:
        for name, field in model.model_fields.items():
            if name not in without and (only is None or name in only):
                found.setdefault(name, field)
    return found


def data_fields(*only: str, without: Collection[str] = ()) -> Callable[[], dict[str, Fields]]:
    """What `verb` makes options of for a verb that reads data: the fields of `DataOptions`, or some of them."""

    def made() -> dict[str, Fields]:
        from preface.tasks.options import DataOptions

        return {"data_options": fields(DataOptions, only=only or None, without=without)}

    return made


def with_options(function: Callable[..., None], groups: Mapping[str, Fields]) -> Callable[..., None]:
    """The function with an option for each field, as typer reads signatures.

    `groups` names parameters of the function; each takes the fields that the user gave, as a dictionary.
    """
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in groups]
    made = [
        option(name, field, group.replace("_", " ").capitalize())
        for group, members in groups.items()
        for name, field in members.items()
    ]

    def called(**values: Any) -> None:
        given = {group: given_fields(members, values) for group, members in groups.items()}
        function(**{parameter.name: values[parameter.name] for parameter in own}, **given)

    called.__name__, called.__doc__ = function.__name__, function.__doc__
    called.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *made)])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *made)}
    return called


def option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    """A field as a parameter that typer makes an option of; None where the user does not give it."""
    kind = _kind(field.annotation)
    spelling, metavar = _spelling(name)
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        kind = str  # which the model is made of
    if get_origin(kind) in (tuple, dict):  # several values, or pairs; the model knows which words there are
        kind = list[float] if get_args(kind)[0] is float else list[str]
    info = typer.Option(spelling, help=_help(field), metavar=metavar, rich_help_panel=panel)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _spelling(name: str) -> tuple[str, str | None]:
    return SPELLINGS.get(name, (f"--{name.replace('_', '-')}", None))


def _kind(annotation: Any) -> Any:
    """A field's type without its None."""
    if NoneType not in get_args(annotation):
        return annotation
    (kind,) = [arg for arg in get_args(annotation) if arg is not NoneType]
    return kind


def _help(field: FieldInfo) -> str:
    """The description, and the default where that is a value and not said in words."""
    text, default = field.description or "", field.default
    if default in (None, False) or field.is_required() or "Default:" in text:
        return text
    if isinstance(default, tuple):
        shown = " ".join(map(str, default))
    elif isinstance(default, str):
        shown = default
    else:
        shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"
    return f"{text} Default: {shown}."


def given_fields(members: Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the user gave, as the model takes them. Raises UserError for a pair that is none."""
    given: dict[str, Any] = {}
    for name in members:
        value = values[name]
        if value is None or value == []:
            continue
        kind = _kind(members[name].annotation)
        if get_origin(kind) is dict:
            value = _weights(value) if get_args(kind)[1] is float else _words(value)
        given[name] = tuple(value) if isinstance(value, list) else value
    return given


def _words(pairs: Sequence[str]) -> dict[str, str]:
    """`0=negative`; of a label that is named twice, the last word."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"label-words {pair}: write LABEL=WORD, as in `--label-words 0=negative 1=positive`")
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _weights(items: Sequence[str]) -> dict[str, float]:
    """`span-corruption=0.6`, or `span-corruption`, which weighs 1."""
    weights = {}
    for item in items:
        name, _, weight = item.partition("=")
        try:
            weights[name] = float(weight) if weight else 1.0
        except ValueError as error:
            raise UserError(f"objective {item}: {weight!r} is no number; write NAME=WEIGHT") from error
    return weights


def arguments(given: Mapping[str, Any]) -> list[str]:
    """The way back: fields as the user would give them on the command line."""
    written: list[str] = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        written.append(_spelling(name)[0])
        if isinstance(value, Mapping):
            written += [f"{key}={word}" for key, word in value.items()]
        elif isinstance(value, tuple):
            written += map(str, value)
        elif value is not True:
            written.append(str(value))
    return written


def on_command_line(context: typer.Context, besides: Collection[str] = ()) -> list[str]:
    """The options, and the names of arguments, that the user gave, in the order of the help."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and parameter.name not in besides
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    ]  # fmt: skip


def expand(arguments: Sequence[str], parameters: Sequence[Any]) -> list[str]:
    """`--learning-rate 1e-3 1e-2` to `--learning-rate=1e-3 --learning-rate=1e-2`, for options whose value ends in `…`.
    Where the value stands in brackets, as `[ADDRESS]`, it may be left out and is empty then.

    Raises UserError for an empty argument, since a path of nothing would be the current folder, and for such an option
    without a value.
    """
    several = {name for p in parameters if (p.metavar or "").endswith("…") for name in p.opts}
    optional = {name for p in parameters if (p.metavar or "").startswith("[") for name in p.opts}
    expanded: list[str] = []
    option: str | None = None
    values = 0
    for argument, following in pairwise((*arguments, None, None)):
        if option is not None and not values and (argument is None or _is_option(argument)):
            raise UserError(f"{option}: needs a value")
        if argument is None:
            break
        if not argument or re.fullmatch(r"--[\w-]+=", argument):
            name = argument.rstrip("=") or (expanded[-1] if expanded else "")
            raise UserError(f"{name or 'argument'}: is empty")
        if is_option := _is_option(argument):
            option, values = argument if argument in several else None, 0
            if argument in optional and (following is None or _is_option(following)):
                argument += "="
        elif option == "--input" and values and Path(argument).is_file():  # `predict RUN --input text new.csv`
            option = None
        if option is None:
            expanded.append(argument)
        elif not is_option:
            values += 1
            expanded.append(f"{option}={argument}")
    return expanded


def _is_option(argument: str) -> bool:
    """`-1=negative` is a value, and `-` is standard input."""
    return re.match(r"-(?!\d)", argument) is not None and argument != "-"

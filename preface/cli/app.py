"""The application, and the options and habits that its verbs share."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.errors import UserError

# the imports of torch and Transformers take seconds, which `--help` and completion should not wait for
app = typer.Typer(
    name="preface",
    help="Train the preface, freeze the book: soft prompts for frozen T5 models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
compare_app = typer.Typer(no_args_is_help=True, help="Run a matrix of experiments and report it.")
app.add_typer(compare_app, name="compare")

MANY = {"--learning-rate", "--label-words", "--sites", "--keep-out", "--objective", "--tasks", "--probe"}
"""Options that take several values after one name: `--learning-rate 1e-3 1e-2`."""


class Optimizer(StrEnum):
    adamw = "adamw"
    adafactor = "adafactor"


Backbone = Annotated[
    str | None,
    typer.Option("--backbone", help="Embedded name, folder, or name on the Hugging Face hub. Default: nano, embedded."),
]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Input = Annotated[str | None, typer.Option("--input", help="A data file's field with the text.")]
Label = Annotated[str | None, typer.Option("--label", help="A data file's field with the label.")]
LabelWordsOption = Annotated[
    list[str] | None,
    typer.Option("--label-words", help="Words of the labels: `0=negative 1=positive`.", metavar="LABEL=WORD …"),
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Of a data file. Default: UTF-8.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the data files of shipped tasks. Default: PREFACE_DATA."),
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out and count rows that cannot be read.")]
Json = Annotated[
    bool, typer.Option("--json", help="Only JSON on standard output; scores as a list of cells, as in results.json.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into.")]
On = Annotated[list[str] | None, typer.Option("--on", help="A task or a data file to evaluate on; may be repeated.")]
Length = Annotated[int | None, typer.Option("--length", help="Virtual tokens. Default: 20.")]
Sites = Annotated[
    list[str] | None,
    typer.Option("--sites", help="Where a prefix goes: encoder decoder cross. Default: all.", metavar="SITE …"),
]


def called() -> str:
    """The command as it was called, so that what is suggested can be pasted."""
    return sys.argv[0] if Path(sys.argv[0]).name == "preface" else "python -m preface"


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def show(table: Any) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    Console().print(table)


def show_json(value: Any) -> None:
    """Print only JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def label_words_of(pairs: list[str] | None) -> dict[str, str] | None:
    """`0=negative` to a dictionary. Raises UserError for a pair without `=`."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"label-words {pair}: write LABEL=WORD, as in `--label-words 0=negative 1=positive`")
    return dict(pair.split("=", 1) for pair in pairs)

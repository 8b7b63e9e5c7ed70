"""Options that several verbs share and no configuration model has, and how results are shown."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="nano, smollm2, a folder, a GGUF file, or a name on the Hugging Face hub. Default: smollm2 where it is "
        "installed, else nano.",
    ),
]
BackboneOfRun = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="In place of the run's own, which is the default: nano, smollm2, a folder, a GGUF file, or a name on the "
        "Hugging Face hub. Without a run: smollm2 where it is installed, else nano.",
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, …")]


def _keep(size: str | None) -> str | None:
    """The backbone that is loaded next reads it. Raises UserError."""
    if size is not None:
        from preface.backbones.base import size_in_bytes

        os.environ["PREFACE_KEEP_CONTEXTS"] = str(size_in_bytes(size))
    return size


KeepContexts = Annotated[
    str | None,
    typer.Option(
        "--keep-contexts",
        metavar="SIZE",
        callback=_keep,
        help="What was read of texts may take so much memory or disk, 4GB or 0; the rest is read anew. Default: 20GB.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Only JSON on standard output; scores as a list of cells, as in results.json.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Spread the work over a Ray cluster. Default address: RAY_ADDRESS, else a cluster that was started here, "
        "else this machine alone.",
    ),
]
On = Annotated[list[str] | None, typer.Option("--on", help="A task or a data file to evaluate on; may be repeated.")]
TrainRows = Annotated[
    int | None, typer.Option("--train-rows", help="Train on so many rows; of several tasks together, of each.", min=1)
]


def command(*arguments: object) -> str:
    """A command to be pasted: called as this one was, with its paths quoted."""
    called = sys.argv[0] if Path(sys.argv[0]).name == "preface" else "python -m preface"
    first = shlex.quote(called) if called == sys.argv[0] else called
    return " ".join([first, *(shlex.quote(str(argument)) for argument in arguments)])


def empty_table(title: str, columns: Sequence[str], caption: str | None = None, text: Collection[str] = ()) -> Table:
    """A table without rows; the columns in `text` are text, all others numbers, on the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, caption=caption)
    for name in columns:
        table.add_column(name, justify="left" if name in text else "right", no_wrap=name not in text)
    return table


def show(table: Table) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    Console().print(table)


def show_json(value: Any) -> None:
    """Print only JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))

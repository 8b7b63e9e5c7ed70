"""`pretrain`: a backbone of one's own; what `adapt` shares with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Device, Dtype, KeepOut, Out, command, show
from preface.cli.options import Fields, fields, on_command_line
from preface.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

Tokens = Annotated[Path | None, typer.Option("--tokens", help="A folder that `preface tokenize` made.")]
InstructionTasks = Annotated[
    list[str] | None, typer.Option("--tasks", help="What `instructions` are made of.", metavar="TASK …")
]
Probes = Annotated[
    list[str] | None,
    typer.Option("--probe", help="Tune a small prefix on these tasks as training goes on.", metavar="TASK …"),
]
Unfinished = Annotated[
    Path | None, typer.Option("--resume", help="An interrupted backbone's folder; all else comes from there.")
]


def training_options() -> dict[str, Fields]:
    """What `pretrain` and `adapt` both take."""
    from preface.pretraining.settings import Settings
    from preface.tasks.options import DataOptions

    return {"settings": fields(Settings), "data_options": fields(DataOptions, only=("data",))}


def _options() -> dict[str, Fields]:
    from preface.pretraining.architecture import Architecture

    return {"sizes": fields(Architecture), **training_options()}


@verb(
    options=_options,
    epilog="""
Examples:

`preface pretrain --tokens tokens --architecture 11m --minutes 150 --out backbones/mine --probe film`

`preface pretrain --tokens tokens --d-model 256 --layers 4 --objective span-corruption=0.6 prefix-lm=0.4 --steps 5000
--out backbones/mine`

`preface pretrain --resume backbones/mine`
""",
)
def pretrain(
    context: typer.Context,
    sizes: dict[str, Any],
    settings: dict[str, Any],
    data_options: dict[str, Any],
    out: Out = None,
    tokens: Tokens = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="A shipped shape (1m, 4m, 11m, 30m) or a YAML.")
    ] = None,
    tasks: InstructionTasks = None,
    keep_out: KeepOut = None,
    probe: Probes = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    resume: Unfinished = None,
) -> None:
    """Train a T5 from scratch; its folder loads in Preface and in Transformers."""
    import preface

    if resume is not None:
        folder = resumed(context, resume, device)
    elif tokens is None or out is None:
        raise UserError("pretrain: give --tokens, a folder that `preface tokenize` made, and --out")
    else:
        folder = preface.pretrain(
            tokens,
            out,
            architecture=architecture,
            numbers=sizes,
            tasks=tasks or (),
            keep_out=keep_out or (),
            probes=probe or (),
            dtype=dtype,
            device=device,
            **data_options,
            **settings,
        )
    show_made(folder)


def resumed(context: typer.Context, folder: Path, device: str) -> Path:
    """Go on with an interrupted backbone. Raises UserError if anything but a device is given besides."""
    from preface.pretraining.making import resume

    if other := on_command_line(context, besides={"resume", "device"}):
        raise UserError(f"{other[0]}: cannot be given with --resume; it comes from {folder}")
    return resume(folder, None if device == "auto" else device)


def show_made(folder: Path) -> None:
    """What a finished backbone is worth, and what to do with it."""
    show(backbone_table(folder))
    typer.echo(f"\ncard        {folder / 'README.md'}")
    typer.echo(f"losses      {folder / 'loss.png'}")
    typer.echo(f"\nNext:\n  {command('train', '--backbone', folder, '--task', 'film')}")


def backbone_table(folder: Path) -> Table:
    """What a backbone that was just made is worth: held-out losses, probes, speed."""
    from rich import box
    from rich.table import Table

    record = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
    result = record["result"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{folder}: {record['parameters']:,} parameters",
        caption=f"{result['tokens']:,} tokens in {result['steps']:,} steps, {result['tokens_per_second']:,.0f}/s, "
        f"{result['seconds'] / 60:,.1f} min in all. Losses in nats a token; noise: hidden text without sentinels.",
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in result["validation"].items():
        table.add_row(f"validation loss, {name}", f"{value:.3f}" if value is not None else "not finite")
    for name, value in result["probes"].items():
        table.add_row(f"small prefix on {name}, development", f"{100 * value:.1f} %")
    return table

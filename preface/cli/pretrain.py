"""`pretrain`: a backbone of one's own; what `adapt` shares with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Out, command, empty_table, show
from preface.cli.options import Fields, fields, on_command_line
from preface.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

Unfinished = Annotated[
    Path | None, typer.Option("--resume", help="An interrupted backbone's folder; all else comes from there.")
]


def training_options() -> dict[str, Fields]:
    """What `pretrain` and `adapt` both take."""
    from preface.pretraining.settings import MakingOptions, Settings

    return {"making_options": fields(MakingOptions), "settings": fields(Settings)}


def _options() -> dict[str, Fields]:
    from preface.pretraining.architecture import Architecture

    return training_options() | {"sizes": fields(Architecture)}


@verb(
    options=_options,
    shares=True,
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
    making_options: dict[str, Any],
    settings: dict[str, Any],
    sizes: dict[str, Any],
    out: Out = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="A shipped shape (1m, 4m, 11m, 30m) or a YAML.")
    ] = None,
    resume: Unfinished = None,
) -> None:
    """Train a T5 from scratch; its folder loads in Preface and in Transformers."""
    import preface

    if resume is not None:
        folder = resumed(context, resume, making_options.get("device"))
    elif "tokens" not in making_options or out is None:
        raise UserError("pretrain: give --tokens, a folder that `preface tokenize` made, and --out")
    else:
        folder = preface.pretrain(out=out, architecture=architecture, numbers=sizes, **making_options, **settings)
    show_made(folder)


def resumed(context: typer.Context, folder: Path, device: str | None) -> Path:
    """Go on with an interrupted backbone. Raises UserError if anything but a device is given besides."""
    from preface.pretraining.making import resume

    if other := on_command_line(context, besides={"resume", "device"}):
        raise UserError(f"{other[0]}: cannot be given with --resume; it comes from {folder}")
    return resume(folder, device)


def show_made(folder: Path) -> None:
    """What a finished backbone is worth, and what to do with it."""
    show(backbone_table(folder))
    typer.echo(f"\ncard        {folder / 'README.md'}")
    typer.echo(f"losses      {folder / 'loss.png'}")
    typer.echo(f"\nNext:\n  {command('train', '--backbone', folder, '--task', 'film')}")


def backbone_table(folder: Path) -> Table:
    """What a backbone that was just made is worth: held-out losses, probes, speed."""
    record = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
    result = record["result"]
    table = empty_table(
        f"{folder}: {record['parameters']:,} parameters",
        ("measure", "value"),
        f"{result['tokens']:,} tokens in {result['steps']:,} steps, {result['tokens_per_second']:,.0f}/s, "
        f"{result['seconds'] / 60:,.1f} min in all. Losses in nats a token; noise: hidden text without sentinels.",
        text={"measure"},
    )
    for name, value in result["validation"].items():
        table.add_row(f"validation loss, {name}", f"{value:.3f}" if value is not None else "not finite")
    for name, value in result["probes"].items():
        table.add_row(f"small prefix on {name}, development", f"{100 * value:.1f} %")
    return table

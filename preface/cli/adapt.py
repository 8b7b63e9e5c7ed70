"""`adapt`: all weights of a checkpoint trained on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Out
from preface.cli.pretrain import Unfinished, resumed, show_made, training_options
from preface.errors import UserError


@verb(
    options=training_options,
    shares=True,
    epilog="""
Examples:

`preface adapt backbones/mine --tokens tokens --minutes 10 --out backbones/mine-lm` (LM adaptation)

`preface adapt google/t5-v1_1-small --objective instructions --tasks imdb cr trec rte --steps 2000 --out backbones/it`

`preface adapt --resume backbones/mine-lm`
""",
)
def adapt(
    context: typer.Context,
    making_options: dict[str, Any],
    settings: dict[str, Any],
    checkpoint: Annotated[str | None, typer.Argument(help="Embedded name, folder, or name on the hub.")] = None,
    out: Out = None,
    resume: Unfinished = None,
) -> None:
    """Train all weights of a checkpoint on: LM adaptation by default, or span corruption, or instructions."""
    import preface

    if resume is not None:
        folder = resumed(context, resume, making_options.get("device"))
    elif checkpoint is None or out is None:
        raise UserError("adapt: give a checkpoint and --out")
    else:
        folder = preface.adapt(checkpoint, out, **making_options, **settings)
    show_made(folder)

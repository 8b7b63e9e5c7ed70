"""`import`: another program's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Device, Dtype, command
from preface.cli.options import Fields, fields


def _options() -> dict[str, Fields]:
    from preface.tasks.load import FileOptions

    return {"task_options": fields(FileOptions)}


@verb(
    name="import",
    options=_options,
    epilog="""
Examples:

`preface import sst2-from-peft --task sst2 --out prompts/sst2`

`preface import sst2.npy --backbone google/t5-base-lm-adapt --task sst2 --wording "sentence: {text}" --out google`
""",
)
def import_(
    task_options: dict[str, Any],
    path: Annotated[Path, typer.Argument(help="A folder that PEFT saved, or a .npy file [length, d].")],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="What the prompt is for: a shipped task, a YAML, a data file; of a multitask prompt all its tasks in "
            "their order, sst2+trec.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The prompt's folder to write.")],
    task_number: Annotated[
        int | None, typer.Option("--task-number", help="Of a multitask prompt, the task to take alone, from 0.")
    ] = None,
    max_input_tokens: Annotated[
        int | None, typer.Option("--max-input-tokens", help="Longer inputs are cut. Default: 512.", min=2)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="The model that the prompt is of. Default: the one that PEFT's folder names."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Read another program's prompt: a folder of PEFT, or a .npy file such as Google released."""
    from preface.exchange.importing import import_prompt

    saved = import_prompt(
        path,
        task,
        out,
        task_number=task_number,
        max_input_tokens=max_input_tokens,
        backbone=backbone,
        dtype=dtype,
        device=device,
        **task_options,
    )
    card = saved.card
    typer.echo(f"{card.method.name} on {card.task.name}, {card.backbone} frozen, is in {out}. Next:")
    for name in card.shared_by or ("",):
        folder = saved.of_task(name).folder if name else out
        typer.echo(f"  {command('evaluate', folder)}")

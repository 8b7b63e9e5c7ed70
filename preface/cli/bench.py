"""`bench`: which setting trains fastest here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Json, command, empty_table, show, show_json
from preface.cli.options import arguments, data_fields

if TYPE_CHECKING:
    from rich.table import Table

    from preface.tuning.bench import Timing


@verb(
    options=data_fields(without=("wording",)),
    epilog="""
Examples:

`preface bench`

`preface bench --backbone smollm2 --task reviews --prompts 10` (one text, many prompts)

`preface bench --backbone google/t5-large-lm-adapt --task reviews.csv --input text --label stars`
""",
)
def bench(
    data_options: dict[str, Any],
    backbone: Backbone = None,
    task: Annotated[str, typer.Option("--task", help="A shipped task, a YAML, or a data file.")] = "film",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows a step and prompt.")] = 32,
    steps: Annotated[int, typer.Option("--steps", help="Timed of each setting.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", help="To be spent on all settings, about.", min=1)] = 75,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", min=2, help="Time so many prompts on the same texts instead: read once, one by one."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time training steps of your backbone on your data, and tell which setting is fastest here."""
    import preface
    from preface.tuning.bench import fastest

    name = backbone or preface.default_backbone()
    if prompts is not None:
        _many_prompts(name, task, prompts, device, data_options, as_json)
        return
    timings = preface.bench(
        name, task, batch_size=batch_size, steps=steps, seconds=seconds, device=device, **data_options
    )
    if as_json:
        show_json([asdict(timing) for timing in timings])
        return
    show(timings_table(timings, name))
    best = fastest(timings)
    threads = f"OMP_NUM_THREADS={best.threads} " if best.device == "cpu" else ""
    same = arguments({"backbone": backbone, "task": task, **data_options})
    setting = [*shlex.split(best.options), "--dtype", best.dtype, "--batch-size", batch_size]
    typer.echo(f"  {threads}{command('train', *same, *setting)}")


def _many_prompts(
    backbone: str, task: str, prompts: int, device: str, data_options: dict[str, Any], as_json: bool
) -> None:
    from preface.labelling.many_prompts import many_prompts
    from preface.options import validated
    from preface.tasks.options import DataOptions

    timed = many_prompts(backbone, task, prompts, device=device, data=validated(DataOptions, data_options))
    if as_json:
        show_json(asdict(timed))
    else:
        typer.echo(str(timed))


def timings_table(timings: Sequence[Timing], name: str) -> Table:
    """Every setting, and which is fastest."""
    from preface.tuning.bench import fastest

    best = fastest(timings)
    table = empty_table(
        f"A training step of {name}, {best.device}",
        ("method", "prompts", "dtype × threads", "step s", "new s", "rows/s", "epoch s"),
        f"Fastest for one prompt: {best.method}, {best.dtype}, {best.threads} threads.\n"
        "new: a step whose inputs were not encoded yet; epoch: all prompts side by side.",
        text={"method"},
    )
    for timing in timings:
        table.add_row(
            timing.method,
            str(timing.members),
            f"{timing.dtype} × {timing.threads}",
            f"{timing.step_seconds:.3f}",
            f"{timing.first_seconds:.3f}",
            f"{timing.rows_a_second:,.0f}",
            f"{timing.epoch_seconds:,.1f}",
            style="bold" if timing is best else None,
        )
    return table

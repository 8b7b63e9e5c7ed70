"""`evaluate`: how well prompts do on tasks, their own and others."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Dtype, Json, On, Out, show, show_json
from preface.cli.options import Fields, fields


def _options() -> dict[str, Fields]:
    from preface.tasks.options import DataOptions

    return {"data_options": fields(DataOptions)}


@verb(
    options=_options,
    epilog="""
Examples:

`preface evaluate runs/film --on reviews --on posts`

`preface evaluate runs/sst2 --on imdb --on my.jsonl --input text --label label --data DIR`

`preface evaluate --backbone google/flan-t5-large --on sst2` (the frozen backbone alone, zero-shot)
""",
)
def evaluate(
    data_options: dict[str, Any],
    run: Annotated[Path | None, typer.Argument(help="A run's folder, or a prompt's. None: the bare backbone.")] = None,
    on: On = None,
    backbone: Backbone = None,
    instruction: Annotated[str | None, typer.Option(help="What the bare backbone reads; {text} is the input.")] = None,
    prompts: Annotated[
        Literal["best", "rate", "all"], typer.Option(help="The best, every seed at the best rate, or all.")
    ] = "rate",
    scoring: Annotated[
        Literal["rank", "generate"], typer.Option(help="Rank the label words, or generate and match exactly.")
    ] = "rank",
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Of shipped tasks.")] = "test",
    max_input_tokens: Annotated[int | None, typer.Option(help="Longer inputs are cut and counted.", min=2)] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's prompts, or the bare backbone, on any tasks."""
    import preface
    from preface.experiments.report import pivot, rich_table
    from preface.labelling.evaluate import INSTRUCTION
    from preface.records.checkpoint import load_prompt

    opened: Any = None
    if run is not None:
        opened = run if (run / "prompt.json").exists() else preface.Run.open(run)
    trained_on = load_prompt(run).card["backbone"] if run is not None else preface.DEFAULT
    cells = preface.evaluate(
        opened,
        on or (),
        backbone=preface.load_backbone(backbone or trained_on, dtype, device),
        instruction=instruction or INSTRUCTION,
        prompts=prompts,
        scoring=scoring,
        split=split,
        max_input_tokens=max_input_tokens,
        out=out,
        **data_options,
    )
    if as_json:
        show_json([asdict(cell) for cell in cells])
        return
    if prompts == "all":  # their mean over rates would be nobody's score
        cells = [replace(cell, method=f"{cell.method} {cell.details['learning_rate']:g}") for cell in cells]
    show(rich_table(pivot(cells)))

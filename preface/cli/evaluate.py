"""`evaluate`: how well prompts do on tasks, their own and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import BackboneOfRun, Device, Dtype, Json, KeepContexts, On, Out, show, show_json
from preface.cli.options import Fields, fields

if TYPE_CHECKING:
    from preface.records.results import Cell


def _options() -> dict[str, Fields]:
    from preface.labelling.options import EvaluateOptions
    from preface.tasks.options import DataOptions

    return {"evaluate_options": fields(EvaluateOptions), "data_options": fields(DataOptions, without=("wording",))}


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
    evaluate_options: dict[str, Any],
    data_options: dict[str, Any],
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder, a prompt's, or hub:OWNER/NAME. None: the bare backbone.")
    ] = None,
    on: On = None,
    backbone: BackboneOfRun = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    keep_contexts: KeepContexts = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's prompts, or the bare backbone, on any tasks."""
    import preface
    from preface.experiments.report import pivot, rich_table
    from preface.insight.answers import read_answers, write_answers
    from preface.insight.answers import rich_table as label_table

    cells = preface.evaluate(
        run, on or (), backbone=backbone, out=out, dtype=dtype, device=device, **evaluate_options, **data_options
    )
    if as_json:
        show_json([asdict(cell) for cell in cells])
        return
    if evaluate_options.get("prompts") == "all":  # their mean over rates would be nobody's score
        cells = [
            replace(cell, method=f"{cell.method} {cell.details['learning_rate']:g}")
            if "learning_rate" in cell.details
            else cell
            for cell in cells
        ]
    show(rich_table(pivot(cells)))
    for cell in best_of_each_task(cells):
        path, title = Path(cell.details["predictions"]), f"{cell.method} on {cell.eval_task}"
        if "right" not in cell.details:  # free text
            typer.echo(f"answers     {path}")
            continue
        answers = read_answers(path, "labels" in cell.details, given_or_right(cell.details.get("confusion", {})))
        write_answers(answers, title, path.with_suffix(".html"))
        show(label_table(answers, title))
        typer.echo(f"page        {path.with_suffix('.html')}")


def given_or_right(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The labels that some row has or was given."""
    from preface.labelling.measures import OTHER

    return [label for label in dict.fromkeys([*confusion, *chain.from_iterable(confusion.values())]) if label != OTHER]


def best_of_each_task(cells: Sequence[Cell]) -> list[Cell]:
    """Of the cells whose predictions were written, the best prompt's by development score."""
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        if "predictions" in cell.details:
            by_task.setdefault(cell.eval_task, []).append(cell)
    return [max(own, key=lambda cell: cell.details.get("development_score") or 0.0) for own in by_task.values()]

"""`train`: soft prompts for a frozen backbone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import (
    Backbone,
    Device,
    Dtype,
    Json,
    KeepContexts,
    Out,
    TrainRows,
    command,
    empty_table,
    show,
    show_json,
)
from preface.cli.options import Fields, arguments, fields, on_command_line
from preface.errors import UserError
from preface.terminal.launcher import is_first

if TYPE_CHECKING:
    from rich.table import Table

    from preface.records.results import Cell
    from preface.records.run import Run
    from preface.tasks import Task

ELSEWHERE = {"resume", "as_json", "backbone", "data", "device", "keep_contexts", "spread"}
"""What may be given with --resume: where things lie on this machine, how processes share the work, how the result is
printed."""


def _options() -> dict[str, Fields]:
    from preface.methods import METHODS
    from preface.tasks.options import DataOptions
    from preface.tuning.recipe import Recipe

    return {
        "method_options": fields(*METHODS.values()),
        "recipe": fields(Recipe, without=("seeds",)),
        "data_options": fields(DataOptions),
    }


@verb(
    options=_options,
    shares=True,
    epilog="""
Examples:

`preface train --task film`

`preface train --task reviews.csv --input text --label stars --label-words 0=negative 1=positive`

`preface train --task sst2 --data DIR --learning-rate 1e-3 1e-2 1e-1 --seeds 3`

`preface train --task mine.csv --folds 4` (few rows: none are set aside, cross-validation chooses)

`preface train --resume runs/sst2`
""",
)
def train(
    context: typer.Context,
    method_options: dict[str, Any],
    recipe: dict[str, Any],
    data_options: dict[str, Any],
    task: Annotated[
        str | None, typer.Option("--task", help="A shipped task, a YAML, a data file; or several: `sst2+trec`.")
    ] = None,
    backbone: Backbone = None,
    method: Annotated[
        str | None, typer.Option("--method", help="See `preface methods`. Default: prefix-tuning.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="How many seeds, trained side by side: 0, 1, …", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="One particular seed.")] = None,
    train_rows: TrainRows = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Train on so many rows of each label.", min=1)] = None,
    draw: Annotated[int, typer.Option("--draw", help="The seed that draws the shots.")] = 0,
    dtype: Dtype = "auto",
    quantize: Annotated[
        str | None, typer.Option("--quantize", help="Hold the backbone's weights in fewer bits: int8 or nf4.")
    ] = None,
    device: Device = "auto",
    keep_contexts: KeepContexts = None,
    out: Out = None,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME …", help="Watch it in tensorboard, wandb, mlflow, … too."),
    ] = None,
    spread: Annotated[
        str,
        typer.Option("--spread", help="What several processes share out: rows, members or weights."),
    ] = "auto",
    resume: Annotated[
        Path | None, typer.Option("--resume", help="An interrupted run's folder; all else comes from there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train soft prompts on a task and keep the best by development score."""
    import preface
    from preface.backbones.load import default_backbone
    from preface.backbones.quantized import name_with
    from preface.methods import method_named
    from preface.options import validated

    if seed is not None and seeds is not None:
        raise UserError("seed: give either --seed or --seeds")
    if resume is not None and (other := on_command_line(context, besides=ELSEWHERE)):
        raise UserError(f"{other[0]}: cannot be given with --resume; it comes from the run in {resume}")
    if quantize is not None:
        backbone = name_with(backbone or default_backbone(), quantize)
    if seed is not None or seeds is not None:
        recipe["seeds"] = seeds if seed is None else (seed,)
    configured = None
    if method is not None or method_options:
        configured = validated(method_named(method or "prefix-tuning"), method_options)
    run = preface.train(
        backbone,
        task,
        configured,
        train_rows=train_rows,
        shots=shots,
        draw=draw,
        out=out,
        resume=resume,
        dtype=dtype,
        device=device,
        track=track,
        spread=spread,
        **data_options,
        **recipe,
    )
    if not is_first():
        return
    if as_json:
        show_json([asdict(cell) for cell in run_cells(run)])
        return
    show(run_table(run))
    typer.echo(f"\nThe run is in {run.folder}. Next:")
    for line in follow_ups(run, task, data_options):
        typer.echo(f"  {line}")


def follow_ups(run: Run, task: str | None, data_options: dict[str, Any]) -> list[str]:
    """Commands that work for this run: on its own test split and tasks with the same label words, and for new texts."""
    data = arguments({name: data_options.get(name) for name in ("data", "encoding")})
    saved = run.prompt()
    if saved.card.shared_by:
        own = saved.of_task(saved.card.shared_by[0])
        return [command("evaluate", run.folder, *data), _on_a_text(own.card.task, own.folder)]
    on = [option for name in _fitting(run, data_options.get("data")) for option in ("--on", name)]
    evaluate = command("evaluate", run.folder, *on, *data)
    if task is not None and Path(task).suffix.lower() not in (".yaml", ".yml") and Path(task).is_file():
        reading = arguments({name: data_options.get(name) for name in ("encoding", "skip_bad_rows")})
        return [evaluate, f"{command('predict', run.folder, task, *reading)} > labels.jsonl"]
    return [evaluate, _on_a_text(run.record.task, run.folder)]


def _on_a_text(task: Task, folder: Path) -> str:
    row = json.dumps(dict.fromkeys(task.fields.input, "a text"))
    return f"echo '{row}' | {command('predict', folder)}"


def _fitting(run: Run, data: Path | None) -> list[str]:
    """Shipped tasks other than the run's whose labels have the same words and whose test rows are here; none: the
    run's own is evaluated."""
    from preface.tasks import list_tasks, load_task

    here = [
        task.name
        for task in list_tasks(data)
        if task.places.get("test") in ("folder", "embedded") and task.name != run.record.task.name
    ]
    words = set(run.record.label_words)
    return [name for name in here if {word for word in load_task(name).labels.values() if word is not None} == words]


def run_cells(run: Run) -> list[Cell]:
    """A run's development scores, one cell a member."""
    from preface.records.results import Cell

    record, result = run.record, run.result
    return [
        Cell(
            backbone=record.backbone,
            method=record.method.name,
            train_task=record.task.name,
            eval_task=record.task.name,
            metric=record.task.metric,
            value=member.score,
            n=record.splits.validation.rows,
            seed=member.seed,
            trained_parameters=result.trained_parameters,
            seconds=result.seconds / len(run.members),
            split="validation",
            details={"learning_rate": member.learning_rate, "step": member.step, "loss": member.loss},
        )
        for member in run.members
    ]


def run_table(run: Run) -> Table:
    """Development scores by learning rate, over seeds."""
    from preface.tasks.metric import metric_title

    record, result = run.record, run.result
    saved = run.prompt()
    each = [(name, saved.of_task(name).card.development_score or 0.0) for name in saved.card.shared_by]
    rows, metric = record.splits.validation.rows, "mean over tasks" if each else metric_title(record.task.metric)
    folds = record.recipe.get("folds")
    whose = "for all tasks" if each else "a prompt"
    crossed, which = (f", {folds}-fold cross-validated", "rows") if folds else ("", "development rows")
    table = empty_table(
        f"{record.method.name} on {record.task.name}, {record.backbone} frozen",
        ("learning rate", "seeds", "mean", "± deviation", "best"),
        f"{metric[0].upper()}{metric[1:]} in percent{crossed} on {rows:,} {which} (the commonest label alone: "
        f"{100 * result.majority:.1f}).\n{result.trained_parameters:,} trained parameters {whose}, "
        f"{result.steps:,} steps, {result.seconds:,.0f} s."
        + (f"\nThe best: {', '.join(f'{name} {100 * score:.1f}' for name, score in each)}." if each else "")
        + (f"\nThe backbone saw labelled examples of {', '.join(saw)}." if (saw := record.backbone_saw) else ""),
    )
    chosen = run.best_rate[0].learning_rate
    for row in result.rates:
        rate = row.learning_rate
        best = max(member.score for member in run.members if member.learning_rate == rate)
        deviation = "–" if row.deviation is None else f"{100 * row.deviation:.1f}"
        cells = f"{rate:g}", str(row.n), f"{100 * row.mean:.1f}", deviation, f"{100 * best:.1f}"
        table.add_row(*cells, style="bold" if rate == chosen else "")
    return table

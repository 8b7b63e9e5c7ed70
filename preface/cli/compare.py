"""`compare`: a matrix of experiments and its report."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import compare_app, verb
from preface.cli.common import (
    Backbone,
    Device,
    Dtype,
    Json,
    KeepContexts,
    On,
    Ray,
    TrainRows,
    command,
    show,
    show_json,
)
from preface.cli.options import data_fields


@verb(
    group=compare_app,
    name="cross-domain",
    options=data_fields(without=("wording",)),
    epilog="""
Examples:

`preface compare cross-domain --recipe demo --out runs/demo`

`preface compare cross-domain --recipe nano --data DIR --out runs/nano` (again: goes on where it stopped)

`preface compare cross-domain --recipe paper-a --out runs/paper-a`

`preface compare cross-domain --recipe methods --out runs/methods --ray` (its columns over a Ray cluster)
""",
)
def compare_cross_domain(
    data_options: dict[str, Any],
    out: Annotated[Path, typer.Option("--out", help="The experiment's folder.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe or a YAML.")] = "nano",
    backbone: Backbone = None,
    task: Annotated[str | None, typer.Option("--task", help="Train on this task instead.")] = None,
    on: On = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Instead of the recipe's.", min=1)] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Instead of the recipe's.", min=1)] = None,
    train_rows: TrainRows = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    keep_contexts: KeepContexts = None,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Methods and baselines × test domains × seeds: table, plot, report, results.json."""
    import preface
    from preface.experiments.cross_domain import load_experiment
    from preface.experiments.report import pivot, rich_table

    experiment = load_experiment(recipe)
    changes: dict[str, Any] = {"task": task, "on": on, "seeds": seeds, "steps": steps, "train_rows": train_rows}
    if ray is not None:
        from preface.cluster.compare import on_cluster

        changes["compute"] = on_cluster(ray or None)
    cells = preface.compare_cross_domain(
        experiment,
        out=out,
        backbone=backbone,
        dtype=dtype,
        device=device,
        **{name: value for name, value in changes.items() if value is not None},
        **data_options,
    )
    if as_json:
        show_json([asdict(cell) for cell in cells])
        return
    show(rich_table(pivot(cells)))
    typer.echo(f"\nreport      {out / 'report.html'}")
    typer.echo(f"results     {out / 'results.json'}")
    typer.echo(f"runs        {out / ('tasks' if (out / 'tasks').exists() else 'train')}")
    if experiment.next:
        typer.echo("\nTry next:")
        for line in experiment.next:
            typer.echo("  " + line.replace("{out}", shlex.quote(str(out))).replace("{preface}", command()))

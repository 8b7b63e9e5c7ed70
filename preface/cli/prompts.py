"""`train`, `evaluate`, `predict`: soft prompts for a frozen backbone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from preface.cli.app import (
    Backbone,
    Data,
    Device,
    Dtype,
    Encoding,
    Input,
    Json,
    Label,
    LabelWordsOption,
    Length,
    On,
    Optimizer,
    Out,
    Sites,
    SkipBadRows,
    app,
    called,
    given,
    label_words_of,
    show,
    show_json,
)
from preface.errors import UserError


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


class Scoring(StrEnum):
    rank = "rank"
    generate = "generate"


class Prompts(StrEnum):
    best = "best"
    rate = "rate"
    all = "all"


class Schedule(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


Method = Annotated[str | None, typer.Option("--method", help="See `preface methods`. Default: prefix-tuning.")]
Init = Annotated[
    str | None,
    typer.Option("--init", help="random, vocabulary, labels, activations, text:WORDS or prompt:FOLDER."),
]


@app.command(
    epilog="""
Examples:

`preface train --task film`

`preface train --task reviews.csv --input text --label stars --label-words 0=negative 1=positive`

`preface train --task sst2 --data DIR --learning-rate 1e-3 1e-2 1e-1 --seeds 3`

`preface train --resume runs/sst2`
"""
)
def train(
    task: Annotated[str | None, typer.Option("--task", help="A shipped task, a YAML, or a data file.")] = None,
    backbone: Backbone = None,
    method: Method = None,
    length: Length = None,
    sites: Sites = None,
    init: Init = None,
    reparametrize: Annotated[int | None, typer.Option(help="Train the prefix through an MLP of this width.")] = None,
    positions: Annotated[str | None, typer.Option(help="Position bias of prefix keys: preceding or none.")] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option("--learning-rate", help="One or several, trained side by side.", metavar="RATE …"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="How many seeds, trained side by side: 0, 1, …", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="One particular seed.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Default: adamw.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Default: linear; adafactor: constant.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of rising rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Rows a step and prompt. Default: 32.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Tokens a step and prompt, padding included.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Default: 15, within 300 to 2,000 steps.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Wins over --epochs.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between looks at the development split.")] = None,
    patience: Annotated[int | None, typer.Option(help="Looks without a better score before a prompt stops.")] = None,
    dropout: Annotated[float | None, typer.Option(help="In the frozen backbone. Default: 0.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    max_input_tokens: Annotated[
        int | None, typer.Option(help="Longer inputs are cut and counted. Default: 512.")
    ] = None,
    train_rows: Annotated[int | None, typer.Option(help="Train on so many rows.", min=1)] = None,
    input: Input = None,
    label: Label = None,
    label_words: LabelWordsOption = None,
    encoding: Encoding = None,
    data: Data = None,
    skip_bad_rows: SkipBadRows = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="An interrupted run's folder; all else comes from there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train soft prompts on a task and keep the best by development score."""
    import preface
    from preface.methods import method_named
    from preface.tuning.recipe import validated

    if seed is not None and seeds is not None:
        raise UserError("seed: give either --seed or --seeds")
    fields = {
        "length": length,
        "sites": sites,
        "init": init,
        "reparametrize": reparametrize,
        "positions": positions,
    }
    configured = None
    if method is not None or given(fields):
        configured = validated(method_named(method or "prefix-tuning"), given(fields))
    recipe = {
        "learning_rates": tuple(learning_rate) if learning_rate else None,
        "seeds": (seed,) if seed is not None else seeds,
        "optimizer": optimizer and optimizer.value,
        "schedule": schedule and schedule.value,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "clip": clip,
        "batch_size": batch_size,
        "token_budget": token_budget,
        "epochs": epochs,
        "steps": steps,
        "evaluate_every": evaluate_every,
        "patience": patience,
        "dropout": dropout,
        "gradient_checkpointing": gradient_checkpointing or None,
        "max_input_tokens": max_input_tokens,
    }
    data_options = {
        "input": input,
        "label": label,
        "label_words": label_words_of(label_words),
        "encoding": encoding,
        "data": data,
        "skip_bad_rows": skip_bad_rows or None,
    }
    run = preface.train(
        backbone,
        task,
        configured,
        train_rows=train_rows,
        out=out,
        resume=resume,
        dtype=dtype,
        device=device,
        **given(recipe | data_options),
    )
    from preface.cli.show import run_cells, run_table

    if as_json:
        show_json([asdict(cell) for cell in run_cells(run)])
    else:
        show(run_table(run))
        typer.echo(f"\nThe run is in {run.folder}. Next:")
        typer.echo(f"  {called()} evaluate {run.folder} --on reviews")
        typer.echo(f"  {called()} predict {run.folder} new.csv > labels.jsonl")


@app.command(
    epilog="""
Examples:

`preface evaluate runs/film --on reviews --on posts`

`preface evaluate runs/sst2 --on imdb --on my.jsonl --input text --label label --data DIR`

`preface evaluate --backbone google/flan-t5-large --on sst2` (the frozen backbone alone, zero-shot)
"""
)
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run's folder, or a prompt's. None: the bare backbone.")] = None,
    on: On = None,
    backbone: Backbone = None,
    instruction: Annotated[str | None, typer.Option(help="What the bare backbone reads; {text} is the input.")] = None,
    prompts: Annotated[Prompts, typer.Option(help="The best, every seed at the best rate, or all.")] = Prompts.rate,
    scoring: Annotated[
        Scoring, typer.Option(help="Rank the label words, or generate and match exactly.")
    ] = Scoring.rank,
    split: Annotated[Split, typer.Option(help="Of shipped tasks.")] = Split.test,
    input: Input = None,
    label: Label = None,
    label_words: LabelWordsOption = None,
    encoding: Encoding = None,
    data: Data = None,
    skip_bad_rows: SkipBadRows = False,
    max_input_tokens: Annotated[int | None, typer.Option(help="Longer inputs are cut and counted.", min=2)] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's prompts, or the bare backbone, on any tasks."""
    import preface
    from preface.experiments.report import pivot, rich_table

    options = {
        "instruction": instruction,
        "prompts": prompts.value,
        "scoring": scoring.value,
        "split": split.value,
        "input": input,
        "label": label,
        "label_words": label_words_of(label_words),
        "encoding": encoding,
        "data": data,
        "skip_bad_rows": skip_bad_rows,
        "max_input_tokens": max_input_tokens,
    }
    cells = preface.evaluate(run, on or (), backbone=backbone, out=out, dtype=dtype, device=device, **given(options))
    if as_json:
        show_json([asdict(cell) for cell in cells])
    else:
        if prompts is Prompts.all:  # their mean over rates would be nobody's score
            cells = [replace(cell, method=f"{cell.method} {cell.details['learning_rate']:g}") for cell in cells]
        show(rich_table(pivot(cells)))


@app.command(
    epilog="""
Examples:

`preface predict runs/film reviews.csv --input text > labels.jsonl`

`cat posts.jsonl | preface predict runs/film`
"""
)
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a prompt's.")],
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSON Lines or Parquet; -: standard input.")] = "-",
    input: Input = None,
    encoding: Encoding = None,
    backbone: Backbone = None,
    skip_bad_rows: SkipBadRows = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Label rows: JSON Lines with label and probabilities, in order, as they come."""
    import preface
    from preface.terminal.progress import warn

    skipped = cut = 0

    def on_skip(line: str) -> None:
        nonlocal skipped
        skipped += 1
        warn(f"left out: {line}")

    rows = preface.predict(
        run,
        source,
        input=input,
        encoding=encoding or "utf-8",
        backbone=backbone,
        dtype=dtype,
        device=device,
        skip_bad_rows=skip_bad_rows,
        on_skip=on_skip,
    )
    try:
        for line in rows:
            cut += bool(line.get("cut"))
            print(json.dumps(line, ensure_ascii=False), flush=True)
    finally:
        if skipped:
            warn(f"{skipped:,} bad rows were left out")
        if cut:
            warn(f"{cut:,} inputs were cut")

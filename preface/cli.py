"""The command line: each verb is the public function of the same name."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException

from preface.errors import UserError

# the imports of torch and Transformers take seconds, which `--help` and completion should not wait for
app = typer.Typer(
    name="preface",
    help="Train the preface, freeze the book: soft prompts for frozen T5 models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
compare_app = typer.Typer(no_args_is_help=True, help="Run a matrix of experiments and report it.")
app.add_typer(compare_app, name="compare")

MANY = {"--learning-rate", "--label-words", "--sites", "--keep-out", "--objective", "--tasks", "--probe"}
"""Options that take several values after one name: `--learning-rate 1e-3 1e-2`."""


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


class Optimizer(StrEnum):
    adamw = "adamw"
    adafactor = "adafactor"


class Schedule(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


Backbone = Annotated[
    str | None,
    typer.Option("--backbone", help="Embedded name, folder, or name on the Hugging Face hub. Default: nano, embedded."),
]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Input = Annotated[str | None, typer.Option("--input", help="A data file's field with the text.")]
Label = Annotated[str | None, typer.Option("--label", help="A data file's field with the label.")]
LabelWordsOption = Annotated[
    list[str] | None,
    typer.Option("--label-words", help="Words of the labels: `0=negative 1=positive`.", metavar="LABEL=WORD …"),
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Of a data file. Default: UTF-8.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the data files of shipped tasks. Default: PREFACE_DATA."),
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out and count rows that cannot be read.")]
Json = Annotated[
    bool, typer.Option("--json", help="Only JSON on standard output; scores as a list of cells, as in results.json.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into.")]
On = Annotated[list[str] | None, typer.Option("--on", help="A task or a data file to evaluate on; may be repeated.")]
Method = Annotated[str, typer.Option("--method", help="See `preface methods`.")]
Length = Annotated[int | None, typer.Option("--length", help="Virtual tokens. Default: 20.")]
Sites = Annotated[
    list[str] | None,
    typer.Option("--sites", help="Where a prefix goes: encoder decoder cross. Default: all.", metavar="SITE …"),
]
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
    method: Method = "prefix-tuning",
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
    from preface.recipe import validated
    from preface.training import unfinished

    if seed is not None and seeds is not None:
        raise UserError("seed: give either --seed or --seeds")
    if resume is not None:
        if task is not None or out is not None:
            raise UserError("resume: the task and all else come from the run; give no --task and no --out")
        asked = unfinished(resume)
        backbone, dtype = backbone or asked["backbone"], asked["dtype"]
        device = asked["device"] if device == "auto" else device
    model = preface.load_backbone(backbone or preface.DEFAULT, dtype, device)
    fields = {
        "length": length,
        "sites": sites,
        "init": init,
        "reparametrize": reparametrize,
        "positions": positions,
    }
    configured = validated(method_named(method), _given(fields))
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
    run = preface.train(
        model,
        task,
        configured,
        input=input,
        label=label,
        label_words=_words(label_words),
        encoding=encoding,
        data=data,
        skip_bad_rows=skip_bad_rows,
        train_rows=train_rows,
        out=out,
        resume=resume,
        **_given(recipe),
    )
    from preface.show import run_cells, run_table

    if as_json:
        _print_json([asdict(cell) for cell in run_cells(run)])
    else:
        _print(run_table(run))
        typer.echo(f"\nThe run is in {run.folder}. Next:")
        typer.echo(f"  {_called()} evaluate {run.folder} --on reviews")
        typer.echo(f"  {_called()} predict {run.folder} new.csv > labels.jsonl")


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
    from preface.checkpoint import load_prompt
    from preface.evaluation import INSTRUCTION
    from preface.experiments.report import pivot, rich_table

    opened: Any = None
    if run is not None:
        opened = run if (run / "prompt.json").exists() else preface.Run.open(run)
    trained_on = load_prompt(run).card["backbone"] if run is not None else preface.DEFAULT
    model = preface.load_backbone(backbone or trained_on, dtype, device)
    cells = preface.evaluate(
        opened,
        on or (),
        backbone=model,
        instruction=instruction or INSTRUCTION,
        prompts=prompts.value,
        scoring=scoring.value,
        split=split.value,
        input=input,
        label=label,
        label_words=_words(label_words),
        encoding=encoding,
        data=data,
        skip_bad_rows=skip_bad_rows,
        max_input_tokens=max_input_tokens,
        out=out,
    )
    if as_json:
        _print_json([asdict(cell) for cell in cells])
    else:
        if prompts is Prompts.all:  # their mean over rates would be nobody's score
            cells = [replace(cell, method=f"{cell.method} {cell.details['learning_rate']:g}") for cell in cells]
        _print(rich_table(pivot(cells)))


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
    from preface.checkpoint import load_prompt
    from preface.progress import warn

    name = backbone or load_prompt(run).card["backbone"]
    model = preface.load_backbone(name, dtype, device)
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
        backbone=model,
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


class Block(StrEnum):
    v10 = "v1.0"
    v11 = "v1.1"


class TrainingSchedule(StrEnum):
    cosine = "cosine"
    inverse_sqrt = "inverse-sqrt"
    linear = "linear"
    constant = "constant"


Tokens = Annotated[Path | None, typer.Option("--tokens", help="A folder that `preface tokenize` made.")]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        help="span-corruption, prefix-lm, instructions; several with weights: `span-corruption=0.6 prefix-lm=0.4`.",
        metavar="NAME[=WEIGHT] …",
    ),
]
InstructionTasks = Annotated[
    list[str] | None, typer.Option("--tasks", help="What `instructions` are made of.", metavar="TASK …")
]
KeepOutTasks = Annotated[
    list[str] | None,
    typer.Option("--keep-out", help="Tasks whose evaluation inputs may not be trained on.", metavar="TASK …"),
]
Probes = Annotated[
    list[str] | None,
    typer.Option("--probe", help="Tune a small prefix on these tasks as training goes on.", metavar="TASK …"),
]
ProbeEvery = Annotated[int | None, typer.Option(help="Steps between probes. Default: 1,000.")]
InputLength = Annotated[int | None, typer.Option(help="Tokens of an input. Default: 128.")]
Sequences = Annotated[int | None, typer.Option("--batch-size", help="Sequences a step. Default: 24.")]
MicroBatch = Annotated[
    int | None, typer.Option("--micro-batch-size", help="Sequences held in memory at once; gradients add up.")
]
ScaledRate = Annotated[
    float | None, typer.Option("--rate", help="Learning rate, relative to each matrix's size. Default: 0.01.")
]
Scheduled = Annotated[TrainingSchedule | None, typer.Option("--schedule", help="Default: cosine.")]
Warmup = Annotated[int | None, typer.Option("--warmup", help="Steps of rising rate. Default: 100.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Budget in steps.")]
BudgetTokens = Annotated[int | None, typer.Option("--budget-tokens", help="Budget in tokens.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Budget in minutes, probes included.")]
ValidateEvery = Annotated[int | None, typer.Option(help="Steps between looks at held-out documents. Default: 250.")]
CheckpointSeconds = Annotated[float | None, typer.Option(help="Between checkpoints. Default: 120.")]
Keep = Annotated[int | None, typer.Option("--keep", help="Checkpoints kept. Default: 2.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights, order and masks. Default: 0.")]
Unfinished = Annotated[
    Path | None, typer.Option("--resume", help="An interrupted backbone's folder; all else comes from there.")
]


@app.command(
    epilog="""
Examples:

`preface tokenize books.txt.gz news.jsonl --out tokens --keep-out sst2 imdb` (trains a tokenizer too)

`preface tokenize books.txt.gz --tokenizer nano --out tokens-nano`

`preface tokenize hf:roneneldan/TinyStories --out tokens --vocabulary 8192`
"""
)
def tokenize(
    text: Annotated[
        list[str],
        typer.Argument(help="Plain, .gz or .zst text, JSON Lines, Parquet, `hf:DATASET[:CONFIG][:SPLIT]`."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of tokens; an unfinished one is gone on with.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A backbone or tokenizer, by name or folder. Default: train one.")
    ] = None,
    vocabulary: Annotated[int, typer.Option("--vocabulary", help="Pieces of a trained tokenizer.")] = 16384,
    field: Annotated[str, typer.Option("--field", help="Of JSON Lines, Parquet and the hub.")] = "text",
    keep_out: KeepOutTasks = None,
    held_out: Annotated[int, typer.Option(help="Tokens for validation, about.", min=1)] = 200_000,
    data: Data = None,
) -> None:
    """Write text as tokens for pre-training, without repeated documents and evaluation inputs."""
    import preface

    tokens = preface.tokenize(
        text, out, tokenizer=tokenizer, vocabulary=vocabulary, field=field, keep_out=keep_out or (), data=data,
        held_out=held_out,
    )  # fmt: skip
    card = tokens.card
    typer.echo(f"documents   {card['documents']:,} ({card['duplicates']:,} repeated ones left out)")
    typer.echo(f"tokens      {card['tokens']['train']:,} to train on, {card['tokens']['validation']:,} held out")
    if keep_out:
        dropped = ", ".join(f"{task} {count:,}" for task, count in card["dropped"].items()) or "none"
        typer.echo(f"kept out    {dropped} (listed in {out / 'dropped.jsonl'})")
    typer.echo(f"tokenizer   {out / 'tokenizer'}, {card['vocabulary']:,} pieces")
    typer.echo(f"\nNext:\n  {_called()} pretrain --tokens {out} --architecture 1m --minutes 10 --out backbones/mine")


@app.command(
    epilog="""
Examples:

`preface pretrain --tokens tokens --architecture 11m --minutes 150 --out backbones/mine --probe film`

`preface pretrain --tokens tokens --d-model 256 --layers 4 --objective span-corruption=0.6 prefix-lm=0.4 --steps 5000
--out backbones/mine`

`preface pretrain --resume backbones/mine`
"""
)
def pretrain(
    out: Out = None,
    tokens: Tokens = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="A shipped shape (1m, 4m, 11m, 30m) or a YAML.")
    ] = None,
    d_model: Annotated[int | None, typer.Option("--d-model", help="Default: 256.")] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="Of encoder and of decoder. Default: 4.")] = None,
    decoder_layers: Annotated[int | None, typer.Option(help="Where the decoder's differ.")] = None,
    heads: Annotated[int | None, typer.Option("--heads", help="Default: d_model / d_kv.")] = None,
    d_kv: Annotated[int | None, typer.Option("--d-kv", help="Default: 64.")] = None,
    d_ff: Annotated[int | None, typer.Option("--d-ff", help="Default: 2.75 × d_model gated, 4 × with v1.0.")] = None,
    block: Annotated[Block | None, typer.Option(help="T5's blocks. Default: v1.1.")] = None,
    tie_embeddings: Annotated[
        bool | None, typer.Option("--tie-embeddings/--untie-embeddings", help="Default: as the block has it.")
    ] = None,
    objective: Objectives = None,
    tasks: InstructionTasks = None,
    keep_out: KeepOutTasks = None,
    probe: Probes = None,
    probe_every: ProbeEvery = None,
    minutes: Minutes = None,
    steps: Steps = None,
    budget_tokens: BudgetTokens = None,
    input_length: InputLength = None,
    batch_size: Sequences = None,
    micro_batch_size: MicroBatch = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Default: adamw.")] = None,
    rate: ScaledRate = None,
    schedule: Scheduled = None,
    warmup: Warmup = None,
    dropout: Annotated[float | None, typer.Option(help="Default: 0.")] = None,
    seed: Seed = None,
    validate_every: ValidateEvery = None,
    checkpoint_seconds: CheckpointSeconds = None,
    keep: Keep = None,
    data: Data = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    resume: Unfinished = None,
) -> None:
    """Train a T5 from scratch; its folder loads in Preface and in Transformers."""
    import preface

    if resume is not None:
        _made(_resumed(resume, out, tokens, device))
        return
    numbers = {
        "d_model": d_model,
        "layers": layers,
        "decoder_layers": decoder_layers,
        "heads": heads,
        "d_kv": d_kv,
        "d_ff": d_ff,
        "block": block and block.value,
        "tie_embeddings": tie_embeddings,
    }
    if tokens is None or out is None:
        raise UserError("pretrain: give --tokens, a folder that `preface tokenize` made, and --out")
    folder = preface.pretrain(
        tokens, out, architecture=architecture, numbers=_given(numbers), objectives=_weights(objective),
        tasks=tasks or (), keep_out=keep_out or (), probes=probe or (), data=data, dtype=dtype, device=device,
        **_settings(
            probe_every, minutes, steps, budget_tokens, input_length, batch_size, micro_batch_size, optimizer, rate,
            schedule, warmup, dropout, seed, validate_every, checkpoint_seconds, keep,
        ),
    )  # fmt: skip
    _made(folder)


@app.command(
    epilog="""
Examples:

`preface adapt backbones/mine --tokens tokens --minutes 10 --out backbones/mine-lm` (LM adaptation)

`preface adapt google/t5-v1_1-small --objective instructions --tasks imdb cr trec rte --steps 2000 --out backbones/told`

`preface adapt --resume backbones/mine-lm`
"""
)
def adapt(
    checkpoint: Annotated[str | None, typer.Argument(help="Embedded name, folder, or name on the hub.")] = None,
    out: Out = None,
    tokens: Tokens = None,
    objective: Objectives = None,
    tasks: InstructionTasks = None,
    keep_out: KeepOutTasks = None,
    probe: Probes = None,
    probe_every: ProbeEvery = None,
    minutes: Minutes = None,
    steps: Steps = None,
    budget_tokens: BudgetTokens = None,
    input_length: InputLength = None,
    batch_size: Sequences = None,
    micro_batch_size: MicroBatch = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Default: adamw.")] = None,
    rate: ScaledRate = None,
    schedule: Scheduled = None,
    warmup: Warmup = None,
    dropout: Annotated[float | None, typer.Option(help="Default: 0.")] = None,
    seed: Seed = None,
    validate_every: ValidateEvery = None,
    checkpoint_seconds: CheckpointSeconds = None,
    keep: Keep = None,
    data: Data = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    resume: Unfinished = None,
) -> None:
    """Train all weights of a checkpoint on: LM adaptation by default, or span corruption, or instructions."""
    import preface

    if resume is not None:
        _made(_resumed(resume, out, tokens, device))
        return
    if checkpoint is None or out is None:
        raise UserError("adapt: give a checkpoint and --out")
    folder = preface.adapt(
        checkpoint, out, tokens=tokens, objectives=_weights(objective), tasks=tasks or (), keep_out=keep_out or (),
        probes=probe or (), data=data, dtype=dtype, device=device,
        **_settings(
            probe_every, minutes, steps, budget_tokens, input_length, batch_size, micro_batch_size, optimizer, rate,
            schedule, warmup, dropout, seed, validate_every, checkpoint_seconds, keep,
        ),
    )  # fmt: skip
    _made(folder)


@compare_app.command(
    "cross-domain",
    epilog="""
Examples:

`preface compare cross-domain --recipe demo --out runs/demo`

`preface compare cross-domain --recipe nano --data DIR --out runs/nano` (again: goes on where it stopped)

`preface compare cross-domain --recipe paper-a --out runs/paper-a`
""",
)
def compare_cross_domain(
    out: Annotated[Path, typer.Option("--out", help="The experiment's folder.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe or a YAML.")] = "nano",
    backbone: Backbone = None,
    task: Annotated[str | None, typer.Option("--task", help="Train on this task instead.")] = None,
    on: On = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Instead of the recipe's.", min=1)] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Instead of the recipe's.", min=1)] = None,
    train_rows: Annotated[int | None, typer.Option(help="Train on so many rows.", min=1)] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Methods × test domains × seeds, beside zero-shot and TF-IDF: table, plot, report, results.json."""
    import preface
    from preface.experiments.cross_domain import load_experiment
    from preface.experiments.report import pivot, rich_table

    command = shlex.join(["preface", *sys.argv[1:]])
    experiment = load_experiment(recipe)
    cells = preface.compare_cross_domain(
        experiment,
        out=out,
        backbone=backbone,
        data=data,
        task=task,
        on=on or (),
        seeds=seeds,
        steps=steps,
        train_rows=train_rows,
        command=command,
    )
    if as_json:
        _print_json([asdict(cell) for cell in cells])
        return
    _print(rich_table(pivot(cells)))
    typer.echo(f"\nreport      {out / 'report.html'}")
    typer.echo(f"results     {out / 'results.json'}")
    typer.echo(f"runs        {out / 'train'}")
    if experiment.next:
        typer.echo("\nTry next:")
        for line in experiment.next:
            typer.echo(f"  {line.format(out=out, preface=_called())}")


@app.command()
def tasks(data: Data = None, as_json: Json = False) -> None:
    """List the shipped tasks, and where their data are found."""
    import preface
    from preface.show import tasks_table

    found = preface.list_tasks(data)
    if as_json:
        _print_json([asdict(task) for task in found])
    else:
        _print(tasks_table(found))


@app.command()
def methods(
    backbone: Backbone = None,
    length: Length = None,
    sites: Sites = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """List the methods with their trained, stored and gradient-receiving parameters on a backbone."""
    import preface
    from preface.show import methods_table

    model = preface.load_backbone(backbone or preface.DEFAULT, dtype, device)
    rows = preface.list_methods(model, length=length, sites=sites)
    if as_json:
        _print_json(rows)
    else:
        _print(methods_table(rows, model))


def _called() -> str:
    """The command as it was called, so that what is suggested can be pasted."""
    return sys.argv[0] if Path(sys.argv[0]).name == "preface" else "python -m preface"


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _words(pairs: list[str] | None) -> dict[str, str] | None:
    """`0=negative` to a dictionary. Raises UserError for a pair without `=`."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"label-words {pair}: write LABEL=WORD, as in `--label-words 0=negative 1=positive`")
    return dict(pair.split("=", 1) for pair in pairs)


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _settings(
    probe_every: int | None, minutes: float | None, steps: int | None, budget_tokens: int | None,
    input_length: int | None, batch_size: int | None, micro_batch_size: int | None, optimizer: Optimizer | None,
    rate: float | None, schedule: TrainingSchedule | None, warmup: int | None, dropout: float | None, seed: int | None,
    validate_every: int | None, checkpoint_seconds: float | None, keep: int | None,
) -> dict[str, Any]:  # fmt: skip
    """What `pretrain` and `adapt` have in common, as fields of `Settings`."""
    fields = {
        "probe_every": probe_every,
        "minutes": minutes,
        "steps": steps,
        "budget_tokens": budget_tokens,
        "input_length": input_length,
        "batch_size": batch_size,
        "micro_batch_size": micro_batch_size,
        "optimizer": optimizer and optimizer.value,
        "learning_rate": rate,
        "schedule": schedule and schedule.value,
        "warmup": warmup,
        "dropout": dropout,
        "seed": seed,
        "validate_every": validate_every,
        "checkpoint_seconds": checkpoint_seconds,
        "keep": keep,
    }
    return _given(fields)


def _weights(objectives: list[str] | None) -> dict[str, float] | None:
    """`span-corruption=0.6` or `span-corruption`, which weighs 1."""
    if not objectives:
        return None
    weights = {}
    for item in objectives:
        name, _, weight = item.partition("=")
        try:
            weights[name] = float(weight) if weight else 1.0
        except ValueError as error:
            raise UserError(f"objective {item}: {weight!r} is no number; write NAME=WEIGHT") from error
    return weights


def _resumed(resume: Path, out: Path | None, tokens: Path | None, device: str) -> Path:
    from preface.pretraining.making import resume as go_on

    if out is not None or tokens is not None:
        raise UserError("resume: all else comes from the folder; give no --out and no --tokens")
    return go_on(resume, None if device == "auto" else device)


def _made(folder: Path) -> None:
    """What a finished backbone is worth, and what to do with it."""
    from preface.show import backbone_table

    _print(backbone_table(folder))
    typer.echo(f"\ncard        {folder / 'README.md'}")
    typer.echo(f"losses      {folder / 'loss.png'}")
    typer.echo(f"\nNext:\n  {_called()} train --backbone {folder} --task film")


def expand(arguments: list[str]) -> list[str]:
    """`--learning-rate 1e-3 1e-2` to `--learning-rate=1e-3 --learning-rate=1e-2`, for the options in `MANY`."""
    expanded: list[str] = []
    option: str | None = None
    for argument in arguments:
        is_option = re.match(r"-(?!\d)", argument) is not None and argument != "-"  # -1=negative is a value
        if is_option:
            option = argument if argument in MANY else None
        if option is None:
            expanded.append(argument)
        elif not is_option:
            expanded.append(f"{option}={argument}")
    return expanded


def main() -> None:
    """The `preface` command: a user's mistake is one line and exit code 2; Ctrl-C is 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        code = app(args=expand(sys.argv[1:]), prog_name="preface", standalone_mode=False)
    except UserError as error:
        code = _fail(2, str(error))
    except ClickException as error:
        code = _fail(2, f"{error.format_message()} (`preface --help` shows what there is)")
    except OSError as error:
        code = _fail(2, f"{error.filename or 'file'}: {error.strerror or error}")
    except Exception as error:
        if type(error).__name__ != "Interrupted":  # known by name, for its module imports torch
            raise
        code = _fail(130, str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(code: int, line: str) -> int:
    print(f"preface: {line}", file=sys.stderr)
    return code

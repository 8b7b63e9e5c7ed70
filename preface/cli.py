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

MANY = {"--learning-rate", "--label-words", "--sites"}
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

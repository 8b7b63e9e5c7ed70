"""`tokenize`, `pretrain`, `adapt`: backbones of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preface.cli.app import (
    Data,
    Device,
    Dtype,
    Optimizer,
    Out,
    app,
    called,
    given,
    show,
)
from preface.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel


class Block(StrEnum):
    v10 = "v1.0"
    v11 = "v1.1"


class Schedule(StrEnum):
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
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Relative to each matrix's size. Default: 0.01.")]
Scheduled = Annotated[Schedule | None, typer.Option("--schedule", help="Default: cosine.")]
Warmup = Annotated[int | None, typer.Option("--warmup", help="Steps of rising rate. Default: 100.")]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", help="Default: 0.")]
Clip = Annotated[float | None, typer.Option("--clip", help="Largest norm of the gradient. Default: 1.")]
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
    typer.echo(f"documents   {sum(card['documents'].values()):,} ({card['duplicates']:,} repeated ones left out)")
    typer.echo(f"tokens      {card['tokens']['train']:,} to train on, {card['tokens']['validation']:,} held out")
    if keep_out:
        dropped = ", ".join(f"{task} {count:,}" for task, count in card["dropped"].items()) or "none"
        typer.echo(f"kept out    {dropped} (listed in {out / 'dropped.jsonl'})")
    typer.echo(f"tokenizer   {out / 'tokenizer'}, {card['vocabulary']:,} pieces")
    typer.echo(f"\nNext:\n  {called()} pretrain --tokens {out} --architecture 1m --minutes 10 --out backbones/mine")


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
    learning_rate: Rate = None,
    schedule: Scheduled = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
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
    options = locals()
    import preface
    from preface.pretraining.architecture import Architecture

    if resume is not None:
        _resume(resume, options)
        return
    if tokens is None or out is None:
        raise UserError("pretrain: give --tokens, a folder that `preface tokenize` made, and --out")
    _made(
        preface.pretrain(
            tokens, out, architecture=architecture, numbers=_fields(Architecture, options), **_common(options)
        )
    )


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
    learning_rate: Rate = None,
    schedule: Scheduled = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
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
    options = locals()
    import preface

    if resume is not None:
        _resume(resume, options)
        return
    if checkpoint is None or out is None:
        raise UserError("adapt: give a checkpoint and --out")
    _made(preface.adapt(checkpoint, out, tokens=tokens, **_common(options)))


def _fields(model: type[BaseModel], options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave and the model has as fields, enumerations as their values."""
    found = given({name: options.get(name) for name in model.model_fields})
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in found.items()}


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """What `pretrain` and `adapt` both take."""
    from preface.pretraining.settings import Settings

    return {
        "objectives": _weights(options["objective"]),
        "tasks": options["tasks"] or (),
        "keep_out": options["keep_out"] or (),
        "probes": options["probe"] or (),
        "data": options["data"],
        "dtype": options["dtype"],
        "device": options["device"],
        **_fields(Settings, options),
    }


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


def _resume(folder: Path, options: dict[str, Any]) -> None:
    from preface.pretraining.making import resume

    named = [
        name.replace("_", "-")
        for name, value in options.items()
        if value not in (None, "auto") and name not in ("resume", "device")
    ]
    if named:
        raise UserError(f"resume: all else comes from the folder; give no {', '.join(named)}")
    _made(resume(folder, None if options["device"] == "auto" else options["device"]))


def _made(folder: Path) -> None:
    """What a finished backbone is worth, and what to do with it."""
    from preface.cli.show import backbone_table

    show(backbone_table(folder))
    typer.echo(f"\ncard        {folder / 'README.md'}")
    typer.echo(f"losses      {folder / 'loss.png'}")
    typer.echo(f"\nNext:\n  {called()} train --backbone {folder} --task film")

"""`tokenize`: text as tokens for pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import command
from preface.cli.options import data_fields


@verb(
    options=data_fields("data"),
    epilog="""
Examples:

`preface tokenize books.txt.gz news.jsonl --out tokens --keep-out sst2 imdb` (trains a tokenizer too)

`preface tokenize books.txt.gz --tokenizer nano --out tokens-nano`

`preface tokenize hf:roneneldan/TinyStories --out tokens --vocabulary 8192`
""",
)
def tokenize(
    data_options: dict[str, Any],
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
    keep_out: Annotated[
        list[str] | None,
        typer.Option("--keep-out", help="Tasks whose evaluation inputs may not be trained on.", metavar="TASK …"),
    ] = None,
    held_out: Annotated[int, typer.Option(help="Tokens for validation, about.", min=1)] = 200_000,
) -> None:
    """Write text as tokens for pre-training, without repeated documents and evaluation inputs."""
    import preface

    tokens = preface.tokenize(
        text, out, tokenizer=tokenizer, vocabulary=vocabulary, field=field, keep_out=keep_out or (), held_out=held_out,
        **data_options,
    )  # fmt: skip
    card = tokens.card
    typer.echo(f"documents   {sum(card['documents'].values()):,} ({card['duplicates']:,} repeated ones left out)")
    typer.echo(f"tokens      {card['tokens']['train']:,} to train on, {card['tokens']['validation']:,} held out")
    if keep_out:
        dropped = ", ".join(f"{task} {count:,}" for task, count in card["dropped"].items()) or "none"
        typer.echo(f"kept out    {dropped} (listed in {out / 'dropped.jsonl'})")
    typer.echo(f"tokenizer   {out / 'tokenizer'}, {card['vocabulary']:,} pieces")
    after = command("pretrain", "--tokens", out, "--architecture", "1m", "--minutes", 10, "--out", "backbones/mine")
    typer.echo(f"\nNext:\n  {after}")

"""`export`: a prompt for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import BackboneOfRun, Device, Dtype
from preface.cli.options import data_fields


@verb(
    options=data_fields("input", "encoding", "skip_bad_rows"),
    epilog="""
Examples:

`preface export runs/film --format peft --out film-for-peft`

`preface export runs/film/prompts/03 --format numpy`

`preface export runs/film --format vllm --texts new.csv --out requests.jsonl`
""",
)
def export(
    data_options: dict[str, Any],
    run: Annotated[str, typer.Argument(help="A run's folder, a prompt's, or hub:OWNER/NAME.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="peft: a folder that PEFT loads, of input embeddings before the text, of a prefix of a decoder-only "
            "model that the text sees, of several tasks' prompts. numpy: input embeddings as a .npy file. vllm: "
            "requests with prompt_embeds, a line of JSON for each text.",
        ),
    ],
    texts: Annotated[
        str | None, typer.Option("--texts", help="For vllm: a data file to make requests about; -: standard input.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="What to write. Default: peft, prompt.npy or requests.jsonl in the run's folder."),
    ] = None,
    backbone: BackboneOfRun = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write a prompt for other programs: PEFT, NumPy, vLLM."""
    from preface.exchange.exporting import export_prompt
    from preface.terminal.progress import warn

    path = export_prompt(
        run,
        format,  # type: ignore[arg-type]  # which it checks
        out,
        texts=texts,
        backbone=backbone,
        dtype=dtype,
        device=device,
        on_skip=lambda line: warn(f"left out: {line}"),
        **data_options,
    )
    typer.echo(f"written     {path}")

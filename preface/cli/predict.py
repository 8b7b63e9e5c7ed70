"""`predict`: rows to labels, as a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Dtype
from preface.cli.options import data_fields


@verb(
    options=data_fields("input", "encoding", "skip_bad_rows"),
    epilog="""
Examples:

`preface predict runs/film reviews.csv --input text > labels.jsonl`

`cat posts.jsonl | preface predict runs/film`
""",
)
def predict(
    data_options: dict[str, Any],
    run: Annotated[Path, typer.Argument(help="A run's folder, a prompt's, or hub:OWNER/NAME.")],
    source: Annotated[str, typer.Argument(help="A data file; -: standard input.")] = "-",
    backbone: Backbone = None,
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

    rows = preface.predict(run, source, backbone=backbone, dtype=dtype, device=device, on_skip=on_skip, **data_options)
    try:
        for line in rows:
            cut += bool(line.get("cut"))
            print(json.dumps(line, ensure_ascii=False), flush=True)
    finally:
        if skipped:
            warn(f"{skipped:,} bad rows were left out")
        if cut:
            warn(f"{cut:,} inputs were cut")

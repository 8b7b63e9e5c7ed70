"""`predict`: rows to labels, as a stream."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import BackboneOfRun, Device, Dtype, Out, Ray
from preface.cli.options import data_fields
from preface.errors import UserError


@verb(
    options=data_fields("input", "encoding", "skip_bad_rows"),
    epilog="""
Examples:

`preface predict runs/film reviews.csv --input text > labels.jsonl`

`cat posts.jsonl | preface predict runs/film`

`preface predict runs/film big.parquet --out labels --ray` (over a Ray cluster, in parts)
""",
)
def predict(
    data_options: dict[str, Any],
    run: Annotated[Path, typer.Argument(help="A run's folder, a prompt's, or hub:OWNER/NAME.")],
    source: Annotated[str, typer.Argument(help="A data file; -: standard input.")] = "-",
    backbone: BackboneOfRun = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    ray: Ray = None,
    out: Out = None,
) -> None:
    """Label rows: JSON Lines with label and probabilities, in order, as they come."""
    if out is not None and ray is None:
        raise UserError("out: without --ray labels go to standard output; write `> FILE`, or give --ray too")
    if ray is not None:
        _over_a_cluster(run, source, out, ray, backbone=backbone, dtype=dtype, device=device, **data_options)
        return
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


def _over_a_cluster(run: Path, source: str, out: Path | None, address: str, **how: Any) -> None:
    """The same in parts. Raises UserError."""
    from preface.cluster.predict import predict_on_cluster

    if out is None:
        raise UserError("out: with --ray labels go to a folder, part by part; give --out FOLDER")
    if how.pop("encoding", None) is not None:
        raise UserError("encoding: with --ray a Parquet file is read, which has none; leave it out")
    parts = predict_on_cluster(run, source, out, address=address or None, **how)
    typer.echo(f"labels      {len(parts)} parts in {out}; `cat {shlex.quote(str(out))}/part-*.jsonl` is all, in order")

"""`ensemble`: several prompts that answer as one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import BackboneOfRun, Device, Dtype, Json, On, command, show, show_json
from preface.cli.options import data_fields


@verb(
    options=data_fields(without=("wording",)),
    epilog="""
Examples:

`preface ensemble runs/film --out runs/film-ensemble`

`preface ensemble runs/one runs/two --combine vote --on reviews --out runs/both`
""",
)
def ensemble(
    data_options: dict[str, Any],
    runs: Annotated[list[str], typer.Argument(metavar="RUN …", help="Finished runs of one task, or prompts' folders.")],
    out: Annotated[Path, typer.Option("--out", help="The ensemble's folder.")],
    on: On = None,
    combine: Annotated[
        str, typer.Option("--combine", help="What is saved: mean probability, majority vote, or weighted.")
    ] = "mean",
    prompts: Annotated[
        str, typer.Option("--prompts", help="Of each run the best prompt, every seed at the best rate, or all.")
    ] = "rate",
    backbone: BackboneOfRun = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make one answer of several prompts: votes, mean or weighted probabilities, saved and used like a prompt."""
    import preface
    from preface.experiments.report import pivot, rich_table
    from preface.records.card import load_prompt

    cells = preface.ensemble(
        runs,
        out,
        on or (),
        combine=combine,  # type: ignore[arg-type]
        prompts=prompts,  # type: ignore[arg-type]
        backbone=backbone,
        dtype=dtype,
        device=device,
        **data_options,
    )
    if as_json:
        show_json([asdict(cell) for cell in cells])
        return
    show(rich_table(pivot(cells)))
    count, costs = cells[-1].details["prompts"], cells[-1].details["costs"]
    typer.echo(
        f"\n{count} prompts are {load_prompt(out).stored_bytes:,} bytes; as many tuned copies of the model would be "
        f"{costs['copies']:,} in float32.\n{costs['rows']} development rows took {costs['together']:,.1f} s in one "
        f"batch, {costs['apart']:,.1f} s one prompt after the other. The ensemble is in {out}. Next:"
    )
    typer.echo(f"  {command('predict', out, 'new.csv')} > labels.jsonl")

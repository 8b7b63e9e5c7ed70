"""`neighbors`: what a prompt is near to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import BackboneOfRun, Device, Dtype, Json, show, show_json
from preface.cli.options import data_fields


@verb(
    options=data_fields("data"),
    epilog="""
Examples:

`preface neighbors runs/film`

`preface neighbors runs/film --layer 0 --layer 29 --out film-neighbors.html`
""",
)
def neighbors(
    data_options: dict[str, Any],
    run: Annotated[str, typer.Argument(help="A run's folder, a prompt's, or hub:OWNER/NAME.")],
    layer: Annotated[
        list[int] | None, typer.Option("--layer", help="Of a prefix, from 0; may be repeated. Default: three.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page to write. Default: neighbors.html in the folder, or here for a prompt of the hub."
        ),
    ] = None,
    backbone: BackboneOfRun = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what a prompt's virtual tokens are near to: pieces of the vocabulary, or keys of real text."""
    import preface
    from preface.insight.page import UNTRAINED, rich_table, write_neighbors
    from preface.pages import check_page
    from preface.records.hub import is_of_hub

    if out is not None:
        check_page(out)
    found = preface.neighbors(run, layers=layer, backbone=backbone, dtype=dtype, device=device, **data_options)
    path = out or (Path() if is_of_hub(run) else Path(run)) / "neighbors.html"  # the hub's cache is not written into
    write_neighbors(found, path)
    if as_json:
        show_json(found.as_json())
        return
    if found.untrained:
        typer.echo(f"{UNTRAINED}\n")
    for part in found.parts:
        show(rich_table(part))
    typer.echo(f"\npage        {path}")

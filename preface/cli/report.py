"""`report`: whatever was measured, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preface.cli.app import verb


@verb(
    epilog="""
Examples:

`preface report`

`preface report runs/demo runs/film --out report.html`
""",
)
def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER …", help="Looked through for results. Default: runs.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("report.html"),
) -> None:
    """Gather all results below some folders into one page."""
    import preface

    found = preface.report(folders or [Path("runs")], out)
    for folder in found:
        typer.echo(folder)
    typer.echo(f"\npage        {out}")

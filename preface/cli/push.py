"""`push`: a prompt on the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from preface.cli.app import verb


@verb(
    epilog="""
Examples:

`hf auth login` (once), then `preface push runs/film OWNER/film`

`preface predict hub:OWNER/film texts.csv` (whoever wants it)
""",
)
def push(
    run: Annotated[str, typer.Argument(help="A finished run's folder, or a prompt's.")],
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="For those alone whom the hub lets see it.")] = False,
) -> None:
    """Upload a prompt to the Hugging Face hub, with a page that says what it is for and how good it is."""
    import preface

    typer.echo(preface.push(run, name, private))

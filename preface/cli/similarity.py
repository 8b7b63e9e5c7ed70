"""`similarity`: how alike prompts are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preface.cli.app import verb
from preface.cli.common import Json, show, show_json


@verb(
    epilog="""
Examples:

`preface similarity runs/sst2 runs/trec runs/mrpc --out similarity.html`
""",
)
def similarity(
    runs: Annotated[list[str], typer.Argument(metavar="RUN …", help="Runs, or prompts' folders, of one backbone.")],
    out: Annotated[Path | None, typer.Option("--out", help="A page with the picture.")] = None,
    as_json: Json = False,
) -> None:
    """Show how alike prompts are, and which of them another may begin from."""
    import preface
    from preface.insight.similarity import rich_table, write_similarity
    from preface.pages import check_page

    if out is not None:
        check_page(out)
    found = preface.similarity(runs)
    if out is not None:
        write_similarity(found, out)
    if as_json:
        show_json(found.as_json())
        return
    show(rich_table(found))
    if out is not None:
        typer.echo(f"page        {out}")

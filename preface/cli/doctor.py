"""`doctor`: what this machine has, and what that means for speed."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import fill
from typing import Annotated

import typer

from preface.cli.app import verb
from preface.cli.common import show_json

WIDTH, INDENT = 100, 12


@verb()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on standard output: a list of findings.")] = False,
) -> None:
    """Say what this machine has (precision, cores, GPU, cache, packages, hub), and what that means for speed."""
    import preface

    findings = preface.doctor()
    if as_json:
        show_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        typer.echo(f"{finding.about:<{INDENT}}{finding.found}")
        if finding.means:
            space = " " * INDENT
            typer.echo(fill(finding.means, WIDTH, initial_indent=space, subsequent_indent=space))

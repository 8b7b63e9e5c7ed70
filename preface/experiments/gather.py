"""Whatever was measured, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from preface.errors import UserError
from preface.experiments.differences import Differences, differences
from preface.experiments.lines import figure_of_lines, panels_of
from preface.experiments.matrix import RESULTS, SPEC
from preface.experiments.plot import figure_of_dots
from preface.experiments.table import Table, pivot
from preface.pages import inline, write_page
from preface.records.atomic import check_no_folder
from preface.records.results import Cell, read_cells


@dataclass(frozen=True)
class Section:
    """The cells of one folder."""

    title: str
    folder: Path
    cells: Sequence[Cell]
    table: Table
    beside: Differences | None
    notes: Sequence[str]


def report(folders: Sequence[str | Path] = ("runs",), out: str | Path = "report.html") -> list[Path]:
    """Write one page about all results below some folders: experiments, evaluations, ensembles.

    Args:
        folders: looked through to the bottom for `results.json`.
        out: the page.

    Returns:
        The folders that had results.

    Raises:
        UserError: there are none, or some are damaged, or `out` is a folder.
    """
    check_no_folder(Path(out))
    files = [file for folder in folders for file in sorted(Path(folder).rglob(RESULTS))]
    experiments = {file.parent for file in files if (file.parent / SPEC).exists()}
    # an experiment's table has what its columns measured
    files = [file for file in dict.fromkeys(files) if not experiments & {*file.parent.parents}]
    sections = [section for file in files if (section := _section(file.parent)) is not None]
    if not sections:
        raise UserError(f"no {RESULTS} below {', '.join(map(str, folders))}: run an experiment or evaluate a run first")
    drawn = []
    for section in sections:
        panels = panels_of(section.cells)
        dots = inline(lambda table=section.table: figure_of_dots(table))  # type: ignore[misc]
        lines = inline(lambda panels=panels: figure_of_lines(panels)) if panels else None  # type: ignore[misc]
        drawn.append((section, dots, lines))
    write_page(Path(out), "gathered.html", title="What was measured", sections=drawn)
    return [section.folder for section in sections]


def _section(folder: Path) -> Section | None:
    """What a folder holds; None: no cells."""
    cells = read_cells(folder / RESULTS)
    if not cells:
        return None
    title, notes = _said(folder)
    return Section(title, folder, cells, pivot(cells), differences(cells), notes)


def _said(folder: Path) -> tuple[str, Sequence[str]]:
    """Title and notes of an experiment; of other results where they lie."""
    try:
        fields = yaml.safe_load((folder / SPEC).read_text(encoding="utf-8"))
        return str(fields["title"]), [str(note) for note in fields.get("notes", ())]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return str(folder), ()

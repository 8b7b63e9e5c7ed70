"""Whatever was measured, on one page."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from preface.errors import UserError
from preface.experiments.matrix import SPEC
from preface.experiments.notes import notes_of
from preface.experiments.report import SAID
from preface.experiments.section import Section
from preface.pages import check_page, write_page
from preface.records.results import RESULTS, Cell, read_cells
from preface.records.run import RECORD, Run, command_of
from preface.tasks.metric import metric_title


@dataclass(frozen=True)
class Page:
    """Another page, as a link to it."""

    name: str
    address: str


@dataclass(frozen=True)
class Found:
    """A folder with results, and the pages that lie there."""

    folder: Path
    section: Section
    pages: Sequence[Page]


@dataclass(frozen=True)
class Waiting:
    """A run without an evaluation, and the command that would come next."""

    folder: Path
    said: str
    command: str


def report(folders: Sequence[str | Path] = ("runs",), out: str | Path = "report.html") -> list[Path]:
    """Write one page about all results below some folders: experiments, evaluations, ensembles. It links the pages that
    lie there, and names the runs that have no results yet.

    Args:
        folders: looked through to the bottom for `results.json`.
        out: the page.

    Returns:
        The folders that had results.

    Raises:
        UserError: there is neither a result nor a run, or some results are damaged, or `out` is a folder, or a
            file that is no page.
    """
    out = Path(out)
    check_page(out)
    experiments = {file.parent for file in _below(folders, SPEC)}
    # an experiment's table has what its columns measured
    files = [file for file in _below(folders, RESULTS) if not experiments & {*file.parent.parents}]
    sections = {file.parent: _section(file.parent, cells) for file in files if (cells := read_cells(file))}
    waiting = [
        _waiting(file.parent)
        for file in _below(folders, RECORD)
        if not {file.parent / "evaluations", file.parent} & {*sections} and not experiments & {*file.parents}
    ]
    if not sections and not waiting:
        raise UserError(f"no {RESULTS} below {', '.join(map(str, folders))}: run an experiment or evaluate a run first")
    pages: dict[Path | None, list[Page]] = {}
    for file in _below(folders, "*.html"):
        if file.resolve() != out.resolve():
            owner = _owner(file, sections)
            name = str(file if owner is None else file.relative_to(_home(owner)))
            pages.setdefault(owner, []).append(Page(name, _address(file, out)))
    write_page(
        out,
        "gathered.html",
        title="What was measured",
        found=[Found(folder, section, pages.get(folder, [])) for folder, section in sections.items()],
        waiting=waiting,
        others=pages.get(None, []),
    )
    return [*sections]


def _below(folders: Iterable[str | Path], name: str) -> list[Path]:
    """Files of that name, each once."""
    return [*dict.fromkeys(file for folder in folders for file in sorted(Path(folder).rglob(name)))]


def _section(folder: Path, cells: Sequence[Cell]) -> Section:
    """What an experiment wrote down of itself; else what its YAML and its cells say, and how the run was trained."""
    if said := _read(folder / SAID):
        return Section(str(said["title"]), cells, said.get("notes", ()), said.get("commands", ()))
    said = _read(folder / SPEC)
    notes = [str(note) for note in said.get("notes", ())]
    command = command_of(folder.parent)
    return Section(str(said.get("title", folder)), cells, [*notes, *notes_of(cells)], [command] if command else [])


def _read(file: Path) -> Mapping[str, Any]:
    """What a file says, JSON or YAML; nothing where it is not there or damaged."""
    try:
        text = file.read_text(encoding="utf-8")
        said = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return said if isinstance(said, dict) and "title" in said else {}


def _home(folder: Path) -> Path:
    """The folder of a run, where its evaluations are in it."""
    return folder.parent if folder.name == "evaluations" else folder


def _owner(page: Path, folders: Collection[Path]) -> Path | None:
    """The folder with results that a page lies in, or in whose run; the innermost one."""
    within = [folder for folder in folders if _home(folder) in page.parents]
    return max(within, key=lambda folder: len(_home(folder).parts), default=None)


def _address(page: Path, out: Path) -> str:
    """Of a page from another."""
    return quote(Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix())


def _waiting(folder: Path) -> Waiting:
    """A run that nothing was evaluated of: how it did on the development split, or that it is not finished."""
    run, place = Run(folder), shlex.quote(str(folder))
    try:
        record = run.record
        if record.result is None:
            return Waiting(folder, "not finished", f"preface train --resume {place}")
    except UserError as error:
        return Waiting(folder, str(error), "")
    metric = metric_title(record.task.metric)
    said = f"{record.method.name} on {record.task.name}, development {metric} {100 * run.best.score:.1f}"
    return Waiting(folder, said, f"preface evaluate {place}")

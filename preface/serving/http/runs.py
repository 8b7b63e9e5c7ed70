"""Runs and reports in a folder: what is being trained, and what was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from preface.errors import UserError
from preface.records.metrics import METRICS
from preface.records.run import RECORD, RunRecord
from preface.serving.http.asking import ACaller, AServing, Serving
from preface.serving.http.errors import RefusedError

router = APIRouter(prefix="/v1/runs", tags=["runs"])

DEEPEST = 3
"""Folders within folders that are looked into."""
SKIPPED = ("checkpoints", "prompts", "prompt", "evaluations")
"""Folders of a run, which hold no other."""
SEALED = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""A report may do nothing but be looked at."""
POINTS = 400
"""Of a curve; longer ones are thinned."""


@router.get("", summary="All runs, the newest first, and all reports")
def listed(serving: AServing, caller: ACaller) -> dict[str, Any]:
    caller.check_all("runs")
    folder = _folder(serving)
    runs, pages = [], []
    for path in _folders(folder, DEEPEST):
        name = path.relative_to(folder).as_posix()
        if (path / RECORD).is_file():
            runs.append({"name": name, **_summary(path)})
        pages += [f"{name}/{page.name}" for page in sorted(path.glob("*.html"))]
    runs.sort(key=lambda run: str(run["started"]), reverse=True)
    return {"object": "list", "data": runs, "pages": pages}


@router.get("/{name:path}/page/{page}", summary="A report that lies in a run's folder", response_class=FileResponse)
def page(name: str, page: str, serving: AServing, caller: ACaller) -> FileResponse:
    caller.check_all("runs")
    file = _known(serving, name) / page
    if Path(page).name != page or file.suffix != ".html" or not file.is_file() or file.is_symlink():
        raise RefusedError(404, f"{name}: has no page {page}")
    return FileResponse(file, headers={"Content-Security-Policy": SEALED})


@router.get("/{name:path}", summary="A run: its curves so far, and what came out")
def one(name: str, serving: AServing, caller: ACaller) -> dict[str, Any]:
    caller.check_all("runs")
    path = _known(serving, name)
    if not (path / RECORD).is_file():
        raise RefusedError(404, f"{name}: is no run")
    return {"name": name, **_summary(path), **_curves(path)}


def _folder(serving: Serving) -> Path:
    if serving.runs is None:
        raise RefusedError(404, "runs are not shown here; `preface serve --runs FOLDER` shows those in a folder")
    return serving.runs


def _folders(folder: Path, deepest: int) -> Iterator[Path]:
    """All folders in one, which are not hidden and no links. One that cannot be read, or has gone meanwhile, has
    none."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in SKIPPED
            )
    except OSError:
        return
    for name in inner:
        yield folder / name
        if deepest > 1:
            yield from _folders(folder / name, deepest - 1)


def _known(serving: Serving, name: str) -> Path:
    """The folder of that name. Only what is listed is opened, so no name leads elsewhere."""
    folder = _folder(serving)
    for path in _folders(folder, DEEPEST):
        if path.relative_to(folder).as_posix() == name:
            return path
    raise RefusedError(404, f"{name}: there is no such run; /v1/runs lists those there are")


def _summary(path: Path) -> dict[str, Any]:
    """Of a run; where its record is damaged, that."""
    try:
        record = RunRecord.read(path)
    except UserError as error:
        return {"problem": str(error), "started": "", "finished": None, "score": None, "members": []}
    result = record.result
    return {
        "task": record.task.name,
        "method": record.method.name,
        "backbone": Path(record.backbone).name,
        "steps": record.recipe.get("steps"),
        "started": record.started,
        "finished": record.finished,
        "score": None if result is None else result.members[result.best].score,
        "members": [] if result is None else [
            {"rate": member.learning_rate, "seed": member.seed, "score": member.score, "step": member.step}
            for member in result.members
        ],
    }  # fmt: skip


def _curves(path: Path) -> dict[str, Any]:
    """Of each member the loss and the development score, as `[step, value]`."""
    losses: dict[int, list[tuple[int, float]]] = {}
    scores: dict[int, list[tuple[int, float]]] = {}
    for line in _metrics(path):
        for member, loss in enumerate(line.get("losses", ())):
            if loss is not None:
                losses.setdefault(member, []).append((line["step"], loss))
        if "dev_score" in line:
            scores.setdefault(line.get("member", 0), []).append((line["step"], line["dev_score"]))
    return {
        "losses": [_thinned(losses[member]) for member in sorted(losses)],
        "scores": [_thinned(scores[member]) for member in sorted(scores)],
    }


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole: the last may be being written."""
    file = path / METRICS
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return points[:: -(-len(points) // POINTS)]

"""Find the rows of a task's part: in the data folder, then on the hub, then in the package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from preface.errors import UserError
from preface.tasks.example import Example
from preface.tasks.hub import NotOnHubError, hub_rows
from preface.tasks.lines import brief, sha256_of
from preface.tasks.read import OnBad, Row, iter_rows, raise_bad
from preface.tasks.registry import read_task, registered
from preface.tasks.task import FileSource, SplitName, Task, example_of, label_of

EMBEDDED = Path(__file__).parent / "examples"
Place = Literal["folder", "hub", "embedded", "nowhere"]


class RowsNotFoundError(UserError):
    """No place has the rows of a part."""


@dataclass(frozen=True)
class Source:
    """A file or a data set of the hub that rows were read from."""

    name: str
    """The file's path; or the data set's id, configuration and split."""
    rows: int
    """Rows read that the task's `where` takes, before labels without a word are left out and before any cap."""
    sha256: str | None = None
    """Of the file; None for the hub, whose content its revision names."""
    revision: str | None = None
    """The commit of a data set on the hub."""


@dataclass
class Part:
    """All usable rows of a part, what they were read from, and the messages of bad rows left out."""

    examples: list[Example] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TaskInfo:
    """A registered task, and where the rows of each of its splits would be taken from."""

    name: str
    description: str
    places: dict[SplitName, Place]


def list_tasks(data: str | Path | None = None) -> list[TaskInfo]:
    """All registered tasks; whether the hub can be reached is left open."""
    infos = []
    for path in registered().values():
        task = read_task(path)
        places = {split: _place(task, rule.part, data) for split, rule in task.splits.items()}
        infos.append(TaskInfo(task.name, task.description, places))
    return infos


def _place(task: Task, part: str, data: str | Path | None) -> Place:
    files, hub = task.source.files, task.source.hub
    if files and any(_located(files, part, folder, []) for folder in _folders(task, data, [])):
        return "folder"
    if hub and part in hub.splits:
        return "hub"
    if part in task.source.embedded and (EMBEDDED / task.source.embedded[part]).is_file():
        return "embedded"
    return "nowhere"


def read_part(task: Task, part: str, data: str | Path | None, skip_bad_rows: bool) -> Part:
    """Read a part of a task's source from the first place that has it.

    Raises RowsNotFoundError if no place has it (one line that says where it looked), and UserError for the first bad
    row unless `skip_bad_rows`.
    """
    if not task.source.parts:
        raise UserError(f"{task.name}: names no source, as where rows were given in Python; give a data file instead")
    missed: list[str] = []
    found = Part()
    on_bad: OnBad = found.skipped.append if skip_bad_rows else strict
    if task.source.files is not None:
        for folder in _folders(task, data, missed):
            pairs = _located(task.source.files, part, folder, missed)
            if pairs:
                return _read_files(task, task.source.files, pairs, found, on_bad)
    if task.source.hub is not None:
        split = task.source.hub.splits.get(part)
        try:
            if split is None:
                raise NotOnHubError(f"has no {part} part")
            rows, revision = hub_rows(task.source.hub, split, task.folder)
        except NotOnHubError as error:
            missed.append(f"hub data set {task.source.hub.id}: {error}")
        else:
            count = _collect(task, rows, found, on_bad)
            name = f"{task.source.hub.id} {task.source.hub.config or task.source.hub.folder or ''}".strip()
            found.sources.append(Source(f"{name} {split}", count, revision=revision))
            return found
    if part in task.source.embedded:
        path = EMBEDDED / task.source.embedded[part]
        if path.is_file():
            return _read_files(task, FileSource(parts={}), [(path, None)], found, on_bad)
        missed.append(f"{path}: is not there, install the package again")
    raise RowsNotFoundError(
        f"{task.name}: its {part} part was not found ({'; '.join(missed)}); give --data DIR or set "
        "PREFACE_DATA to the folder that has it, connect to a network, or use a task that comes with rows "
        f"({', '.join(_embedded())})"
    )


def refuse_outside(task: Task) -> None:
    """Raise UserError, which names it, if the task may read a file outside the data folder and the package."""
    source = task.source
    files = [source.files.parts, source.files.labels] if source.files else []
    named = [*source.embedded.values(), *(pattern for parts in files for each in parts.values() for pattern in each)]
    if source.hub is not None:
        named += [source.hub.id, source.hub.folder or ""]
    named = [name for name in named if _leaves(name)]
    if task.folder is not None:
        named.append(str(task.folder))
    if source.hub is not None and (task.folder or Path()).joinpath(source.hub.id).exists():
        named.append(source.hub.id)
    if named:
        raise UserError(
            f"{task.name}: it comes from elsewhere and names {brief(named[0])}, which is not in the data folder; it is "
            "not read: name the data yourself"
        )


def _leaves(name: str) -> bool:
    """Whether a relative name may lead out of the folder that it begins in, on any system."""
    return any(
        path.is_absolute() or path.drive or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def strict(message: str) -> None:
    """The first bad row is an error, which says how to go on without it."""
    raise_bad(f"{message} (or --skip-bad-rows)")


def _embedded() -> list[str]:
    return [name for name, path in registered().items() if read_task(path).source.embedded]


def _data_folder(data: str | Path | None) -> Path | None:
    given = data if data is not None else os.environ.get("PREFACE_DATA") or None
    if given is None:
        return None
    if not Path(given).is_dir():
        origin = "--data" if data is not None else "PREFACE_DATA"
        raise UserError(f"{origin} {given}: there is no such folder; name the folder that holds the tasks' files")
    return Path(given)


def _folders(task: Task, data: str | Path | None, missed: list[str]) -> Iterator[Path]:
    folder = _data_folder(data)
    if folder is not None:
        yield folder
    if task.folder is not None:
        yield task.folder
    if folder is None and task.folder is None:
        missed.append("no data folder is given")


def _located(files: FileSource, part: str, folder: Path, missed: list[str]) -> list[tuple[Path, Path | None]] | None:
    """The files of a part, each with its file of labels, if any; None, and why, if they are not all there."""
    if part not in files.parts:
        missed.append(f"files: there are none of the {part} part")
        return None
    paths = _paths(folder, files.parts[part])
    labels = _paths(folder, files.labels[part]) if files.labels else [None] * len(paths or ())
    if not paths or not labels or len(paths) != len(labels):
        wanted = ", ".join(files.parts[part] + files.labels.get(part, ()))
        missed.append(f"{folder} lacks {wanted}")
        return None
    return list(zip(paths, labels, strict=True))


def _paths(folder: Path, patterns: Iterable[str]) -> list[Path] | None:
    """The files that match, in order of pattern and name; None if a pattern has no match."""
    found: list[Path] = []
    for pattern in patterns:
        # a file of exactly this name goes first: names may hold characters that mean something in a pattern
        named = glob(os.path.join(escape(str(folder)), escape(pattern)))
        matching = named or sorted(glob(os.path.join(escape(str(folder)), pattern)))
        paths = [Path(path) for path in matching if os.path.isfile(path)]
        if not paths:
            return None
        found += paths
    return found


def _read_files(
    task: Task, files: FileSource, pairs: list[tuple[Path, Path | None]], found: Part, on_bad: OnBad
) -> Part:
    for path, labels in pairs:
        rows = iter_rows(
            path,
            files.format,
            files.encoding,
            separator=files.separator,
            quoted=files.quoted,
            columns=files.columns,
            labels=labels,
            nested=files.nested,
            on_bad=on_bad,
        )
        count = _collect(task, rows, found, on_bad)
        found.sources += [Source(str(p), count, sha256_of(p)) for p in (path, labels) if p is not None]
    return found


def _collect(task: Task, rows: Iterable[Row], found: Part, on_bad: OnBad) -> int:
    count = 0
    for row in rows:
        try:
            if not task.source.takes(row):
                continue
            label = label_of(task, row)
            if label is not None:
                found.examples.append(example_of(task, row, label))
            count += 1
        except UserError as error:
            on_bad(str(error))
    return count

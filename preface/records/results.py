"""A result is a list of cells: one number each, with everything that is needed to know what it is."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from pydantic import ConfigDict, TypeAdapter, ValidationError

from preface.errors import UserError, problem_of
from preface.records.atomic import write_atomically
from preface.tasks.mixture import PLUS


@cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a number, and the git revision if there is one."""
    found = {"python": platform.python_version()}
    for name in ("preface", "torch", "transformers", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that was never installed
            found[name] = "not installed"
    source = Path(__file__).parents[2]
    if (source / ".git").exists():  # installed elsewhere, a repository around it would be somebody else's
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        with suppress(OSError, subprocess.CalledProcessError):
            found["git"] = subprocess.run(
                command, cwd=source, capture_output=True, text=True, check=True
            ).stdout.strip()
    return found


SETTINGS = ("learning_rate", "scoring", "calibration", "instruction", "max_input_tokens", "cue", "ensemble", "method")
"""The entries of a cell's details that are part of what it measures."""
RESULTS = "results.json"
"""The file that holds the cells of a folder."""
COMPUTED = "computed"
"""The entry that says in what precision the backbone computed, and on what."""
DRAWN = "instruction_drawn"
"""The entry that says which instruction the rows of a draw chose."""
STORED = "stored_bytes"
"""The entry that says how much is kept of what was trained: a prompt, tuned weights, a classifier with its words."""


@dataclass(frozen=True)
class Cell:
    """One measured number: a method, trained on one task with one seed, evaluated on another."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    backbone: str
    method: str
    """`prefix-tuning`, `prompt-tuning`, `zero-shot`, `tf-idf` … as shown in a table's head."""
    train_task: str | None
    eval_task: str
    metric: str
    value: float
    """In [0, 1]; of correlations in [-1, 1]."""
    n: int
    """Rows evaluated."""
    seed: int | None
    trained_parameters: int
    seconds: float
    """Seconds spent evaluating; training time stands in `details`."""
    split: str = "test"
    details: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: dict(installed_versions()))

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """What it was trained on, the tasks of a mixture each by itself."""
        return () if self.train_task is None else tuple(self.train_task.split(PLUS))

    @property
    def settings(self) -> dict[str, Any]:
        """How it was trained and evaluated, beyond what the other fields say: `SETTINGS`, where known."""
        return {name: self.details[name] for name in SETTINGS if self.details.get(name) is not None}

    @property
    def unusual(self) -> dict[str, str]:
        """How it was asked, where that was not as usual: its scoring, its calibration."""
        found = {name: self.details.get(name) for name in ("scoring", "calibration")}
        return {name: value for name, value in found.items() if value not in (None, "rank")}

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What was measured: of cells that share it the last one counts."""
        where = (self.backbone, self.method, self.train_task, self.eval_task, self.split, self.metric, self.seed)
        return (*where, json.dumps(self.settings, sort_keys=True, default=str))


def ways_computed(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """The methods that were computed in each precision and on each machine, as far as cells say."""
    ways: dict[str, list[str]] = {}
    for cell in cells:
        if COMPUTED in cell.details and cell.method not in ways.setdefault(cell.details[COMPUTED], []):
            ways[cell.details[COMPUTED]].append(cell.method)
    return ways


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """Write `results.json`: a list of objects, one a cell."""
    write_atomically(path, json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")


def read_cells(path: Path) -> list[Cell]:
    """Read what `write_cells` wrote; an absent file is an empty list. Raises UserError if it is something else."""
    if not path.exists():
        return []
    try:
        return _CELLS.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        reason = problem_of(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"{path}: not a list of Preface's cells ({reason}); move it away, or give another --out"
        ) from error


def add_cells(path: Path, cells: Iterable[Cell]) -> None:
    """Write cells beside those that are in the file; another process may be adding its own."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        write_cells(path, latest([*read_cells(path), *cells]))


def latest(cells: Iterable[Cell]) -> list[Cell]:
    """Without the cells that a later one measured again."""
    return list({cell.identity: cell for cell in cells}.values())


_CELLS = TypeAdapter(list[Cell])

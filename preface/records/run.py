"""The folder of a run: what was configured, what was measured, the prompts."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, TypeVar

from pydantic import Field, model_validator

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.atomic import write_atomically
from preface.records.card import Member, Origin, PromptCard, SavedPrompt, load_prompt
from preface.records.record import Record
from preface.records.results import RESULTS, Cell, read_cells
from preface.tasks import Source, Split

RECORD = "run.json"


class SplitRecord(Record):
    """What a split was read from."""

    rows: int
    skipped: tuple[str, ...]
    """A line about each bad row that was left out."""
    sources: tuple[Source, ...]

    @classmethod
    def of_split(cls, split: Split) -> SplitRecord:
        return cls(rows=len(split.examples), skipped=tuple(split.skipped), sources=tuple(split.sources))

    def same_rows(self, other: SplitRecord) -> bool:
        """Whether both hold the same, wherever the files lie."""
        return self._content == other._content

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.rows, [(source.sha256, source.revision, source.rows) for source in self.sources]


class Splits(Record):
    train: SplitRecord
    validation: SplitRecord


class RateSummary(Record):
    """Mean and sample deviation of the development score over the n seeds of a learning rate."""

    learning_rate: float
    mean: float
    deviation: float | None
    n: int


class Result(Record):
    """What a finished run measured."""

    best: int = Field(ge=0)
    """Index of the member with the best development score."""
    members: tuple[Member, ...] = Field(min_length=1)
    rates: tuple[RateSummary, ...]
    steps: int
    seconds: float
    trained_parameters: int
    stored_parameters: int
    majority: float
    """The development score of always naming the commonest label."""
    cut_inputs: dict[str, int]

    @model_validator(mode="after")
    def _holds_together(self) -> Result:
        if self.best >= len(self.members):
            raise ValueError(f"best is {self.best}, but there are {len(self.members)} members")
        if [member.index for member in self.members] != list(range(len(self.members))):
            raise ValueError("members are not numbered 0, 1, 2, …")
        return self


class RunRecord(Origin):
    """What `run.json` says: how the run was configured and, once it is finished, its result."""

    dtype: str
    device: str
    backbone_saw: tuple[str, ...] = ()
    recipe: dict[str, Any]
    """Fields of `preface.tuning.recipe.Recipe`."""
    data: Path | None = None
    skip_bad_rows: bool = False
    train_rows: int | None = Field(None, ge=1)
    shots: int | None = Field(None, ge=1)
    draw: int = 0
    track: tuple[str, ...] = ()
    """Names of trackers (`preface.records.trackers`)."""
    splits: Splits
    versions: dict[str, str]
    threads: int
    started: str
    command: tuple[str, ...] | None = None
    """None: it was made in Python."""
    result: Result | None = None
    finished: str | None = None

    @property
    def max_input_tokens(self) -> int:
        tokens: int = self.recipe["max_input_tokens"]
        return tokens

    @model_validator(mode="after")
    def _has_a_limit(self) -> RunRecord:
        limit = self.recipe.get("max_input_tokens")
        if not isinstance(limit, int) or limit < 2:
            raise ValueError(f"recipe.max_input_tokens is {limit!r}, and must be a number of at least 2")
        return self

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record in a run's folder. Raises UserError if it is not there or damaged."""
        file = folder / RECORD
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: not readable ({error})") from error
        return cls.of(content, file)

    def write(self, folder: Path) -> None:
        write_atomically(folder / RECORD, json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")

    def finish(self, folder: Path, result: Result) -> None:
        """Write it with what was measured, which makes the run a finished one."""
        self.model_copy(update={"result": result, "finished": now().isoformat(timespec="seconds")}).write(folder)


@dataclass(frozen=True)
class Run:
    """A finished run.

    `run.json` (what was configured and measured), `metrics.jsonl`, `predictions.jsonl` (development split, best
    prompt), `prompt/` (the best by development score), `prompts/NN/` (all).
    """

    folder: Path
    backbone: Backbone | None = field(default=None, compare=False, repr=False)
    """The frozen model, where it is loaded already."""

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Raises UserError if the folder is not a finished run's."""
        run = cls(Path(folder))
        if not (run.folder / RECORD).exists():
            raise UserError(f"{folder}: not a run's folder (no {RECORD}); `preface train --out {folder}` makes one")
        _ = run.result
        return run

    @cached_property
    def record(self) -> RunRecord:
        """What `run.json` says. Raises UserError if it is damaged."""
        return RunRecord.read(self.folder)

    @property
    def result(self) -> Result:
        """What was measured. Raises UserError if the run is not finished."""
        if self.record.result is None:
            raise UserError(f"{self.folder}: not finished; `preface train --resume {self.folder}` goes on")
        return self.record.result

    @property
    def members(self) -> list[Member]:
        return list(self.result.members)

    @property
    def best_rate(self) -> list[Member]:
        """The members, one a seed, of the learning rate with the best mean development score; ties go to the lower
        loss."""
        return at_best_rate(self.members)

    @property
    def best(self) -> Member:
        """The member with the best development score; ties go to the lower loss."""
        return self.members[self.result.best]

    def prompt(self, index: int | None = None) -> SavedPrompt:
        """A member's prompt; the best one's if no index is given."""
        if index is None:
            return load_prompt(self.folder / "prompt")
        return load_prompt(self.folder / "prompts" / f"{index:02d}")


class Scored(Protocol):
    """Whatever was trained at a rate and scored on development rows."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def loss(self) -> float: ...


Trained = TypeVar("Trained", bound=Scored)


def that_learned(trained: Sequence[Trained]) -> list[Trained]:
    """Without those that diverged before they were ever scored; all where none was."""
    return [one for one in trained if math.isfinite(one.loss)] or list(trained)


def at_best_rate(trained: Sequence[Trained]) -> list[Trained]:
    """Those of the learning rate with the best mean development score; ties go to the lower loss."""
    rates: dict[float, list[Trained]] = {}
    for one in that_learned(trained):
        rates.setdefault(one.learning_rate, []).append(one)
    return max(rates.values(), key=lambda some: (fmean(x.score for x in some), -fmean(x.loss for x in some)))


def command_of(folder: Path) -> str | None:
    """How the run in a folder was made; None: there is none, it was made in Python, or its record cannot be read."""
    with suppress(UserError):
        command = RunRecord.read(folder).command
        if command and _is_preface(Path(command[0])):
            return shlex.join(["preface", *command[1:]])
    return None


def _is_preface(program: Path) -> bool:
    """Whether it is the command line: earlier versions recorded whatever program had called."""
    return program.stem == "preface" or program.parts[-2:] == ("preface", "__main__.py")


def cells_of(folder: Path, card: PromptCard) -> list[Cell]:
    """The scores of a prompt, as `evaluate` left them in its folder or its run's, where those of the run's other
    prompts may lie too; none that cannot be read."""
    try:
        cells = read_cells(folder / "evaluations" / RESULTS)
    except UserError:
        return []
    if card.member is None or card.ensemble is not None:  # by itself there
        return cells
    own = card.member.seed, card.member.learning_rate
    return [cell for cell in cells if (cell.seed, cell.details.get("learning_rate")) == own]


def now() -> datetime:
    return datetime.now(UTC)

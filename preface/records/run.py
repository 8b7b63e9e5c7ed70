"""The folder of a run: what was asked, what was measured, the prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.checkpoint import SavedPrompt, load_prompt
from preface.records.results import write_atomically

RECORD = "run.json"
REQUIRED = {"backbone", "fingerprint", "shape", "task", "method", "recipe", "splits", "label_words"}


@dataclass(frozen=True)
class Member:
    """One prompt of a population, and how it did on the development split."""

    index: int
    learning_rate: float
    seed: int
    score: float
    """Best score, in [0, 1]."""
    loss: float
    """Loss at that look: the mean of −log of the probability given to the right label among the labels."""
    step: int
    """Step of that look."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    `run.json` (what was asked and measured), `metrics.jsonl`, `predictions.jsonl` (development split, best prompt),
    `prompt/` (the best by development score), `prompts/NN/` (all).
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
        if "result" not in run.record:
            raise UserError(f"{folder}: not finished; `preface train --resume {folder}` goes on")
        return run

    @cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` says. Raises UserError if it is damaged."""
        try:
            record: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / RECORD}: not readable ({error})") from error
        missing = REQUIRED - set(record) if isinstance(record, dict) else REQUIRED
        if missing:
            raise UserError(f"{self.folder / RECORD}: damaged, or of another version (no {', '.join(sorted(missing))})")
        return record

    @property
    def members(self) -> list[Member]:
        return [Member(**member) for member in self.record["result"]["members"]]

    @property
    def best_rate(self) -> list[Member]:
        """The members, one a seed, of the learning rate with the best mean development score; ties go to the lower
        loss."""
        rates = {member.learning_rate: [] for member in self.members}  # type: dict[float, list[Member]]
        for member in self.members:
            rates[member.learning_rate].append(member)
        return max(rates.values(), key=lambda m: (fmean(x.score for x in m), -fmean(x.loss for x in m)))

    @property
    def best(self) -> Member:
        """The member with the best development score; ties go to the lower loss."""
        return self.members[self.record["result"]["best"]]

    def prompt(self, index: int | None = None) -> SavedPrompt:
        """A member's prompt; the best one's if no index is given."""
        if index is None:
            return load_prompt(self.folder / "prompt")
        return load_prompt(self.folder / "prompts" / f"{index:02d}")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    write_atomically(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def finish_record(folder: Path, record: dict[str, Any], result: dict[str, Any]) -> None:
    """Add what was measured, which makes the run a finished one."""
    write_record(folder, record | {"result": result, "finished": now().isoformat(timespec="seconds")})


def now() -> datetime:
    return datetime.now(UTC)

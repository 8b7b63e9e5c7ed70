"""What is evaluated: a run's prompts, one prompt, or the bare backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.prompts import Prompts
from preface.records.card import Ensemble, Origin, SavedPrompt, load_prompt
from preface.records.hub import is_of_hub, prompt_folder
from preface.records.results import STORED
from preface.records.run import RECORD, Run
from preface.tasks import Task

ZERO_SHOT = "zero-shot"
MAX_INPUT_TOKENS = 512
"""Where nothing was trained that would say how long inputs may be."""


@dataclass(frozen=True)
class Subject:
    """One prompt, an ensemble, or the bare backbone."""

    saved: SavedPrompt | None = None
    method: str = ZERO_SHOT
    details: dict[str, Any] = field(default_factory=dict)
    """What a cell says of it beside its number."""
    trained_parameters: int = 0

    @property
    def prompts(self) -> Prompts:
        """A single one, or those of an ensemble."""
        return self.saved.prompts if self.saved else Prompts.bare()

    @property
    def ensemble(self) -> Ensemble | None:
        return self.saved.card.ensemble if self.saved else None

    @property
    def seed(self) -> int | None:
        seed: int | None = self.details.get("seed")
        return seed

    def on(self, task: Task) -> Subject:
        """For one of the tasks that share a prompt: the task's own. Raises UserError where there is none for it."""
        if self.saved is None or not self.saved.card.shared_by:
            return self
        own = self.saved.of_task(task.name)
        about = {"development_score": own.card.development_score, STORED: own.stored_bytes}
        return replace(self, saved=own, details=self.details | about)


@dataclass(frozen=True)
class Subjects:
    """What is evaluated side by side, and where it comes from."""

    all: Sequence[Subject]
    origin: Origin | None = None
    """None: the bare backbone."""
    max_input_tokens: int = MAX_INPUT_TOKENS
    folder: Path | None = None
    backbone: Backbone | None = None
    """The backbone of a run, where it is loaded already."""
    trained_on: frozenset[str] = frozenset()
    """Hashes of the files that were trained on, where they are known."""
    foreign: bool = False
    """True for a prompt without its run, which may come from anywhere."""

    @property
    def shared(self) -> bool:
        """Whether there is a prompt for each task of a mixture."""
        return any(subject.saved is not None and subject.saved.card.shared_by for subject in self.all)

    def on(self, task: Task) -> Subjects:
        """As they are evaluated on one task. Raises UserError where there is no prompt for it."""
        return replace(self, all=[subject.on(task) for subject in self.all])


def subjects_of(run: Run | str | Path | None, prompts: Literal["best", "rate", "all"]) -> Subjects:
    """The prompts of a run, of its folder, or of a prompt's folder; None: the bare backbone."""
    if run is None:
        return Subjects([Subject()])
    if not isinstance(run, Run):
        folder = prompt_folder(run)
        if _is_prompt(folder):
            saved = load_prompt(folder)
            own = None if is_of_hub(run) else folder  # nothing is written into the hub's cache
            return Subjects([_subject(saved)], saved.card, saved.card.max_input_tokens, own, foreign=True)
        run = Run.open(folder)
    record, result = run.record, run.result
    chosen = {"best": [run.best], "rate": run.best_rate, "all": run.members}[prompts]
    training = {"train_seconds": result.seconds, "train_steps": result.steps, "members": len(result.members)}
    return Subjects(
        [_subject(run.prompt(member.index), training) for member in chosen],
        record,
        record.max_input_tokens,
        run.folder,
        run.backbone,
        frozenset(source.sha256 for source in record.splits.train.sources if source.sha256),
    )


def check_answers(trained: Task, task: Task) -> None:
    """Raise UserError where one of two tasks has labels and the other free text, or one has several a text."""
    if trained.free_text != task.free_text:
        written, chosen = (trained, task) if trained.free_text else (task, trained)
        raise UserError(f"the answers of {written.name} are free text, those of {chosen.name} are labels")
    if trained.multi_label != task.multi_label:
        several, one = (trained, task) if trained.multi_label else (task, trained)
        raise UserError(f"texts of {several.name} may have several labels, those of {one.name} have one each")


def _is_prompt(folder: Path) -> bool:
    """Whether a prompt, or an ensemble, lies there, and no run."""
    there = (folder / "prompt.json").exists() or (folder / "prompt" / "prompt.json").exists()
    return there and not (folder / RECORD).exists()


def _subject(saved: SavedPrompt, training: dict[str, Any] | None = None) -> Subject:
    card = saved.card
    if card.ensemble is not None:
        about = {"method": card.method.config, "members": len(card.ensemble.members), STORED: saved.stored_bytes}
        return Subject(saved, card.method.name, about, card.trained_parameters)
    member = card.member
    details: dict[str, Any] = {} if member is None else {"seed": member.seed, "learning_rate": member.learning_rate}
    about = {"development_score": card.development_score, "method": card.method.config, STORED: saved.stored_bytes}
    return Subject(saved, card.method.name, details | about | (training or {}), card.trained_parameters)

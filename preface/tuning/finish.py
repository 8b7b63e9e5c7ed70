"""What a finished training leaves: every member's prompt, the best one's, its predictions, and the result."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preface.labelling.labeller import Prediction
from preface.methods.base import Counts
from preface.prompts import Prompts
from preface.records.atomic import write_atomically
from preface.records.card import Member, Origin, PromptCard, folder_of_task, save_prompt
from preface.records.results import installed_versions
from preface.records.run import RateSummary, Result, RunRecord, that_learned
from preface.tasks import Task
from preface.tasks.metric import metric_title
from preface.terminal.progress import warn


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one of several tasks that were trained together."""

    task: Task
    prompts: Prompts
    """Of each member."""
    members: Sequence[Member]
    """With their scores on this task."""


@dataclass(frozen=True)
class Outcome:
    """A population at its end."""

    members: Sequence[Member]
    prompts: Prompts
    """P prompts, each as it was at its best; or what those of `tasks` share."""
    predictions: Sequence[Prediction]
    """What the best member's prompt says of the development rows."""
    gold: Sequence[Any]
    """What is right for each: a label, or all answers that are."""
    majority: float
    """What always giving the commonest of them would score."""
    counts: Counts
    cut_inputs: dict[str, int]
    steps: int
    seconds: float
    tasks: Sequence[TaskPrompts] = ()
    """Where each task of a mixture has a prompt of its own."""


def finish(folder: Path, record: RunRecord, outcome: Outcome) -> None:
    """Export every member's prompt and the best; write predictions; complete the run's record."""
    best = best_of(outcome.members)
    for member in outcome.members:
        _save(folder / "prompts" / f"{member.index:02d}", record, outcome, member)
        if member is best:
            _save(folder / "prompt", record, outcome, member)
    warn_of(outcome.predictions, best, outcome.majority, record.task.metric)
    write_predictions(folder / "predictions.jsonl", outcome)
    result = Result(
        best=best.index,
        members=tuple(outcome.members),
        rates=rate_summary(outcome.members),
        steps=outcome.steps,
        seconds=outcome.seconds,
        trained_parameters=outcome.counts.trained,
        stored_parameters=outcome.counts.stored,
        majority=outcome.majority,
        cut_inputs=outcome.cut_inputs,
    )
    record.finish(folder, result)


def _save(folder: Path, record: RunRecord, outcome: Outcome, member: Member) -> None:
    """Write a member's prompt, and in its folder those of the tasks that share it."""
    card = _card(record, outcome.counts, member)
    shared_by = tuple(own.task.name for own in outcome.tasks)
    save_prompt(folder, outcome.prompts, card.model_copy(update={"shared_by": shared_by}), member.index)
    for own in outcome.tasks:
        about = {"task": own.task, "label_words": own.task.label_words, "member": own.members[member.index]}
        save_prompt(folder_of_task(folder, own.task.name), own.prompts, card.model_copy(update=about), member.index)


def _card(record: RunRecord, counts: Counts, member: Member) -> PromptCard:
    origin = {name: getattr(record, name) for name in Origin.model_fields}
    return PromptCard(
        **origin,
        max_input_tokens=record.max_input_tokens,
        trained_parameters=counts.trained,
        member=member,
        versions=installed_versions(),
    )


def best_of(members: Sequence[Member]) -> Member:
    """The member with the best development score; ties go to the lower loss."""
    return max(members, key=lambda member: (member.score, -member.loss))


def write_predictions(path: Path, outcome: Outcome) -> None:
    """What the best prompt says of each development row, a line each."""
    rows = zip(outcome.gold, outcome.predictions, strict=True)
    lines = [asdict(row) | {"gold": gold} for gold, row in rows]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def warn_of(predictions: Sequence[Prediction], best: Member, majority: float, metric_name: str) -> None:
    """Say what a number alone would hide."""
    if best.untrained:
        warn(
            "the best prompt is one that was not trained yet: no later evaluation was better than the one before the "
            "first step; try other learning rates or more steps"
        )
    if len({row.label for row in predictions}) == 1:
        warn(
            f"the best prompt predicts {predictions[0].label!r} for every development row; try other learning rates or "
            "more steps"
        )
    elif best.score <= majority:
        warn(
            f"the best development {metric_title(metric_name)}, {best.score:.3f}, is no better than always naming the "
            "commonest answer; try other learning rates, more steps or another initialisation"
        )


def rate_summary(members: Sequence[Member]) -> tuple[RateSummary, ...]:
    """Mean and sample deviation of the development score over seeds, for each learning rate."""
    rates: dict[float, list[float]] = {}
    for member in that_learned(members):
        rates.setdefault(member.learning_rate, []).append(member.score)
    return tuple(
        RateSummary(
            learning_rate=rate,
            mean=statistics.fmean(scores),
            deviation=statistics.stdev(scores) if len(scores) > 1 else None,
            n=len(scores),
        )
        for rate, scores in rates.items()
    )

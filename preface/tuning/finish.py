"""What a finished training leaves: every member's prompt, the best one's, its predictions, and the result."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import predictions_of
from preface.labelling.metric import metric
from preface.methods.base import Counts
from preface.prompts import Prompts
from preface.records import checkpoint
from preface.records.results import installed_versions
from preface.records.run import Member, finish_record
from preface.terminal.progress import warn

CARD = ("backbone", "fingerprint", "shape", "method", "task", "label_words")
"""What a prompt's card repeats of the run's record."""

METRIC_NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
"""As people write them."""


@dataclass(frozen=True)
class Outcome:
    """A population at its end."""

    members: Sequence[Member]
    prompts: Prompts
    """P prompts, each as it was at its best."""
    predictions: Tensor
    """Log-probabilities of the development rows under the best member's prompt, `[N, C]`."""
    labels: LabelWords
    gold: Tensor
    """Right labels of the development rows, `[N]`."""
    counts: Counts
    cut_inputs: dict[str, int]
    steps: int
    seconds: float


def finish(folder: Path, record: dict[str, Any], outcome: Outcome) -> None:
    """Export every member's prompt and the best; write predictions; complete the run's record."""
    best, metric_name = best_of(outcome.members), record["task"]["metric"]
    card = {key: record[key] for key in CARD} | {
        "max_input_tokens": record["recipe"]["max_input_tokens"],
        "trained_parameters": outcome.counts.trained,
        "versions": installed_versions(),
    }
    for member in outcome.members:
        own = card | {"member": asdict(member)}
        checkpoint.save_prompt(folder / "prompts" / f"{member.index:02d}", outcome.prompts, own, member.index)
        if member is best:
            checkpoint.save_prompt(folder / "prompt", outcome.prompts, own, member.index)
    warn_of(outcome.predictions, outcome.gold, best.score, outcome.labels.words, metric_name)
    write_predictions(folder / "predictions.jsonl", outcome)
    result = {
        "best": best.index,
        "members": [asdict(member) for member in outcome.members],
        "rates": rate_summary(outcome.members),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "trained_parameters": outcome.counts.trained,
        "stored_parameters": outcome.counts.stored,
        "majority": majority(metric_name, outcome.gold),
        "cut_inputs": outcome.cut_inputs,
    }
    finish_record(folder, record, result)


def best_of(members: Sequence[Member]) -> Member:
    """The member with the best development score; ties go to the lower loss."""
    return max(members, key=lambda member: (member.score, -member.loss))


def write_predictions(path: Path, outcome: Outcome) -> None:
    """What the best prompt says of each development row, a line each."""
    rows = predictions_of(outcome.predictions, outcome.labels)
    with path.open("w", encoding="utf-8") as file:
        for gold, row in zip(outcome.gold.tolist(), rows, strict=True):
            print(json.dumps(asdict(row) | {"gold": outcome.labels.words[gold]}), file=file)


def warn_of(predictions: Tensor, gold: Tensor, best: float, words: Sequence[str], metric_name: str) -> None:
    """Say what a number alone would hide."""
    if len(predictions.argmax(-1).unique()) == 1:
        word = words[int(predictions[0].argmax())]
        warn(f"the best prompt predicts {word!r} for every development row; try other learning rates or more steps")
    elif best <= majority(metric_name, gold):
        warn(
            f"the best development {METRIC_NAMES[metric_name]}, {best:.3f}, is no better than always naming the "
            "commonest label; try other learning rates, more steps or another initialisation"
        )


def majority(metric_name: str, gold: Tensor) -> float:
    """What always naming the commonest label gives, by the task's metric."""
    labels = [str(label) for label in gold.tolist()]
    ((commonest, _),) = Counter(labels).most_common(1)
    return metric(metric_name, labels, [commonest] * len(labels))


def rate_summary(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Mean and sample deviation of the development score over seeds, for each learning rate."""
    summary = []
    for rate in dict.fromkeys(member.learning_rate for member in members):
        scores = [member.score for member in members if member.learning_rate == rate]
        deviation = statistics.stdev(scores) if len(scores) > 1 else None
        summary.append(
            {
                "learning_rate": rate,
                "mean": statistics.fmean(scores),
                "deviation": deviation,
                "n": len(scores),
            }
        )
    return summary

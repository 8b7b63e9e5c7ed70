"""What a user of a classifier asks next: how right it is for each label, how sure it may be, and where it errs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preface.errors import UserError
from preface.labelling.measures import OTHER, confusion
from preface.pages import inline, write_page

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table

BINS = 10
MISTAKES = 10


@dataclass(frozen=True)
class Label:
    """How right the answers are for one label; shares of 1."""

    name: str
    precision: float
    """Of the rows that were given it; 0 where there are none."""
    recall: float
    """Of the rows that have it; 0 where there are none."""
    f1: float
    rows: int


@dataclass(frozen=True)
class Bin:
    """Answers that were about as sure as one another."""

    confidence: float
    """The mean probability of what was answered."""
    right: float
    """The share that was right."""
    rows: int


@dataclass(frozen=True)
class Mistake:
    text: str
    gold: str
    label: str
    probability: float


@dataclass(frozen=True)
class Answers:
    """Labelled rows and what was said of them."""

    n: int
    accuracy: float
    labels: tuple[Label, ...]
    confusion: dict[str, dict[str, int]]
    bins: tuple[Bin, ...]
    """Empty where answers have no probabilities."""
    error: float | None
    """Expected calibration error: the mean distance of confidence and the share of right answers (Guo et al. 2017, over
    ten bins of equal width)."""
    mistakes: tuple[Mistake, ...]
    """The surest first."""


def answers_of(rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Answers:
    """From rows with `text`, `gold`, `label`, and `probabilities` or None, as `evaluate` writes them."""
    gold, said = [row["gold"] for row in rows], [row["label"] for row in rows]
    right = [one == other for one, other in zip(gold, said, strict=True)]
    bins: tuple[Bin, ...] = ()
    error = None
    if all(row["probabilities"] for row in rows):
        sure = [row["probabilities"][row["label"]] for row in rows]
        bins = bins_of(sure, right)
        error = sum(some.rows * abs(some.confidence - some.right) for some in bins) / len(rows)
        wrong = sorted((place for place, ok in enumerate(right) if not ok), key=lambda place: -sure[place])
        mistakes = [Mistake(rows[p]["text"], gold[p], said[p], sure[p]) for p in wrong[:MISTAKES]]
    else:
        mistakes = []
    return Answers(
        len(rows),
        sum(right) / len(rows),
        tuple(label_of(word, gold, said) for word in words),
        confusion(gold, said, words),
        bins,
        error,
        tuple(mistakes),
    )


def label_of(name: str, gold: Sequence[str], said: Sequence[str]) -> Label:
    """Precision, recall and F1 of one label."""
    both = sum(one == other == name for one, other in zip(gold, said, strict=True))
    there, given = list(gold).count(name), list(said).count(name)
    return Label(name, share(both, given), share(both, there), share(2 * both, there + given), there)


def share(part: float, whole: float) -> float:
    """0 of nothing."""
    return part / whole if whole else 0.0


def bins_of(sure: Sequence[float], right: Sequence[bool]) -> tuple[Bin, ...]:
    """Answers by their probability, in bins of equal width; empty ones are left out."""
    found: dict[int, list[int]] = {}
    for place, probability in enumerate(sure):
        found.setdefault(min(BINS - 1, int(probability * BINS)), []).append(place)
    return tuple(
        Bin(
            sum(sure[place] for place in places) / len(places),
            sum(right[place] for place in places) / len(places),
            len(places),
        )
        for _, places in sorted(found.items())
    )


def read_answers(path: Path) -> Answers:
    """From a file of predictions that `evaluate` wrote. Raises UserError if it is none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        words = list(rows[0]["probabilities"] or dict.fromkeys(row["gold"] for row in rows))
        return answers_of(rows, words)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path}: not a file of predictions as `preface evaluate` writes them ({error})") from error


def write_answers(found: Answers, title: str, path: Path) -> None:
    """Write one page that needs nothing else."""
    given = [*(label.name for label in found.labels)]
    if any(OTHER in row for row in found.confusion.values()):
        given.append(OTHER)
    picture = inline(lambda: reliability(found)) if found.bins else None
    write_page(path, "answers.html", title=title, found=found, given=given, picture=picture)


def reliability(found: Answers) -> Figure:
    """How often answers are right by how sure they are; on the diagonal, as often as they say."""
    from matplotlib.figure import Figure

    from preface.pages.drawing import INK, style

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=INK, alpha=0.4, linewidth=1)
    sizes = [20 + 380 * some.rows / found.n for some in found.bins]
    x, y = [100 * some.confidence for some in found.bins], [100 * some.right for some in found.bins]
    axes.scatter(x, y, s=sizes, color="#2f8fdb", linewidths=0, alpha=0.85, zorder=3)
    axes.plot(x, y, color="#2f8fdb", linewidth=1)
    axes.set_xlim(min(45, *x) - 2, 102)
    axes.set_ylim(min(0, *y) - 4, 106)
    axes.set_xlabel("probability of the answer (%)")
    axes.set_ylabel("of these right (%)")
    style(axes)
    return figure


def rich_table(found: Answers, title: str) -> Table:
    """For a terminal: a line a label."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    said = f"{found.n:,} rows, accuracy {100 * found.accuracy:.1f} %."
    if found.error is not None:
        said += f" Probabilities are off by {100 * found.error:.1f} points on the mean (expected calibration error)."
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), caption=Text(said))
    table.add_column("label")
    for name in ("precision", "recall", "F1", "rows"):
        table.add_column(name, justify="right")
    for label in found.labels:
        numbers = (f"{100 * value:.1f}" for value in (label.precision, label.recall, label.f1))
        table.add_row(Text(label.name), *numbers, f"{label.rows:,}")
    return table

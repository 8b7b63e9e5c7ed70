"""What a user of a classifier asks next: how right it is for each label, how sure it may be, and where it errs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preface.errors import UserError
from preface.labelling.measures import OTHER, Label, confusion, label_of
from preface.pages import inline, write_page
from preface.tasks.label_sets import as_set

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table

BINS = 10
MISTAKES = 10


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
    """Of several labels a text, all must be right."""
    labels: tuple[Label, ...]
    confusion: dict[str, dict[str, int]]
    """Empty where a text may have several labels."""
    bins: tuple[Bin, ...]
    """Empty where answers have no probabilities. Of several labels a text, each is an answer of yes or no."""
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
        error = calibration_error(bins)
        wrong = sorted((place for place, ok in enumerate(right) if not ok), key=lambda place: -sure[place])
        mistakes = [Mistake(rows[p]["text"], gold[p], said[p], sure[p]) for p in wrong[:MISTAKES]]
    else:
        mistakes = []
    return Answers(
        len(rows),
        sum(right) / len(rows),
        tuple(label_of(word, [{label} for label in gold], [{label} for label in said]) for word in words),
        confusion(gold, said, words),
        bins,
        error,
        tuple(mistakes),
    )


def answers_of_several(rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Answers:
    """The same where a text may have several labels, with the probability of each."""
    gold, said = [as_set(row["gold"]) for row in rows], [as_set(row["label"]) for row in rows]
    wrong = [right ^ given for right, given in zip(gold, said, strict=True)]
    # of each answer of yes or no
    sure = [{word: max(p := row["probabilities"][word], 1 - p) for word in words} for row in rows]
    bins = bins_of([row[word] for row in sure for word in words], [word not in row for row in wrong for word in words])
    surest = {place: max(sure[place][word] for word in some) for place, some in enumerate(wrong) if some}
    mistakes = [
        Mistake(rows[place]["text"], rows[place]["gold"], rows[place]["label"], surest[place])
        for place in sorted(surest, key=lambda place: -surest[place])[:MISTAKES]
    ]
    labels = tuple(label_of(word, gold, said) for word in words)
    right = wrong.count(frozenset()) / len(rows)
    return Answers(len(rows), right, labels, {}, bins, calibration_error(bins), tuple(mistakes))


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of confidence and the share of right answers."""
    return sum(some.rows * abs(some.confidence - some.right) for some in bins) / sum(some.rows for some in bins)


def bins_of(sure: Sequence[float], right: Sequence[bool], count: int = BINS) -> tuple[Bin, ...]:
    """Answers by their probability, in so many bins of equal width; empty ones are left out."""
    found: dict[int, list[int]] = {}
    for place, probability in enumerate(sure):
        found.setdefault(min(count - 1, int(probability * count)), []).append(place)
    return tuple(
        Bin(
            sum(sure[place] for place in places) / len(places),
            sum(right[place] for place in places) / len(places),
            len(places),
        )
        for _, places in sorted(found.items())
    )


def read_answers(path: Path, multi_label: bool = False, words: Sequence[str] = ()) -> Answers:
    """From a file of predictions that `evaluate` wrote; `words`: the labels, where it has no probabilities of them
    (default: those that some row has). Raises UserError if it is none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if multi_label:
            return answers_of_several(rows, list(rows[0]["probabilities"]))
        return answers_of(rows, list(rows[0]["probabilities"] or words or dict.fromkeys(row["gold"] for row in rows)))
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
    answers = sum(some.rows for some in found.bins)
    sizes = [20 + 380 * some.rows / answers for some in found.bins]
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

    what = "accuracy" if found.confusion else "all labels right in"
    said = f"{found.n:,} rows, {what} {100 * found.accuracy:.1f} %."
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

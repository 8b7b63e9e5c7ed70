"""What predictions amount to beside their metric: confusions, and how far chance reaches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from preface.tasks import Example, gold_of
from preface.tasks.label_sets import as_set
from preface.tasks.metric import OF_SETS, score_of

OTHER = "(none of the labels)"
"""What stands for text that is no label, as free generation may write."""


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


def label_of(name: str, gold: Sequence[Collection[str]], said: Sequence[Collection[str]]) -> Label:
    """Precision, recall and F1 of one label, of the labels that each row has and was given."""
    both = sum(name in right and name in given for right, given in zip(gold, said, strict=True))
    there, given = (sum(name in row for row in rows) for rows in (gold, said))
    return Label(name, share(both, given), share(both, there), share(2 * both, there + given), there)


def share(part: float, whole: float) -> float:
    """0 of nothing."""
    return part / whole if whole else 0.0


def confusion(gold: Sequence[str], predicted: Sequence[str], words: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many rows of each label (outer) were given each label (inner); pairs without rows are absent."""
    counts: dict[str, Counter[str]] = {word: Counter() for word in words}
    for right, given in zip(gold, predicted, strict=True):
        counts[right][given if given in counts else OTHER] += 1
    return {word: dict(found) for word, found in counts.items() if found}


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n rows, in [0, 1] (Wilson 1927)."""
    center = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((center + sign * reach) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def measured(
    name: str, examples: Sequence[Example], predicted: Sequence[str], words: Sequence[str]
) -> tuple[float, dict[str, Any]]:
    """The metric of that name, in [0, 1], and what a cell's details say beside it; `words`: none of free text."""
    parts = {part: score_of(part, examples, predicted) for part in name.split("+")}
    value = fmean(parts.values())
    details: dict[str, Any] = {}
    gold = gold_of(examples)
    if any(example.labels is not None for example in examples):
        said = [as_set(text) for text in predicted]
        parts = {part: score_of(part, examples, predicted) for part in OF_SETS} | parts
        labels = [asdict(label_of(word, gold, said)) for word in words]
        details = {"labels": labels, "right": _right(gold, said)}
    elif words:
        details = {"confusion": confusion(gold, predicted, words), "right": _right(gold, predicted)}
    if len(parts) > 1:
        details["metrics"] = parts
    if name == "accuracy":
        details["interval"] = list(wilson(value, len(examples)))
    return value, details


def _right(gold: Sequence[Any], predicted: Sequence[Any]) -> str:
    """Which rows were answered right, a bit a row, in hexadecimal digits: two columns can be compared row by row."""
    right = [one == other for one, other in zip(gold, predicted, strict=True)]
    return np.packbits(right).tobytes().hex()


def right_answers(digits: str, n: int) -> list[bool]:
    """What `measured` wrote of n rows."""
    bits: list[bool] = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=n).astype(bool).tolist()
    return bits

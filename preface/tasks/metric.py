"""How right a list of labels is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import correlation, fmean
from typing import Any

from preface.errors import UserError

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "matthews": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
}
"""As people write them."""
OF_NUMBERS = ("pearson", "spearman")
"""Metrics of label words that are numbers."""


def metric(name: str, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """How right the predicted labels are, at most 1. Raises UserError for a name that no metric has.

    As scikit-learn computes them, which takes two seconds to import: a fourth of the time to a training's first step.
    """
    right = Counter(label for label, said in zip(gold, predicted, strict=True) if label == said)
    there, said = Counter(gold), Counter(predicted)
    match name:
        case "accuracy":
            return right.total() / len(gold)
        case "macro_f1":
            return fmean(2 * right[label] / (there[label] + said[label]) for label in there)
        case "matthews":
            rows = len(gold)
            both = right.total() * rows - sum(there[label] * said[label] for label in there)
            sizes = [rows * rows - sum(count * count for count in counts.values()) for counts in (there, said)]
            return both / math.sqrt(sizes[0] * sizes[1]) if all(sizes) else 0.0
        case "pearson":
            return _correlation([float(label) for label in gold], [float(label) for label in predicted])
        case "spearman":
            return _correlation(_ranks([float(label) for label in gold]), _ranks([float(label) for label in predicted]))
    raise UserError(f"metric {name}: unknown; one of {', '.join(METRIC_NAMES)}")


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """0 where one of them never varies."""
    return correlation(one, other) if len(set(one)) > 1 and len(set(other)) > 1 else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    counts, below, ranks = Counter(values), 0, {}
    for value in sorted(counts):
        ranks[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [ranks[value] for value in values]


def majority(name: str, gold: Sequence[Any]) -> float:
    """What always naming the commonest label gives, by the metric of that name."""
    [(commonest, _)] = Counter(gold).most_common(1)
    return metric(name, gold, [commonest] * len(gold))

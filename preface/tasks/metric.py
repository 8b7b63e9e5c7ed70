"""How right a list of labels is."""

from __future__ import annotations

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from statistics import correlation, fmean
from typing import Any

from preface.errors import UserError
from preface.tasks.example import Example, gold_of, groups_of
from preface.tasks.label_sets import as_set

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "matthews": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "micro_f1": "micro-F1",
    "exact": "exact match",
    "exact_text": "exact match of the text",
    "text_f1": "F1 of the text's words",
}
"""As people write them. Beside these `f1:LABEL`, the F1 of one label."""
F1_OF = "f1:"
OF_NUMBERS = ("pearson", "spearman")
"""Metrics of label words that are numbers."""
OF_SETS = ("micro_f1", "macro_f1", "exact")
"""Metrics of texts with several labels each, beside the F1 of one label."""
OF_TEXT = ("exact_text", "text_f1")
"""Metrics of answers in free text, after SQuAD's normalisation (Rajpurkar et al. 2016, section 6.1)."""


def check_metric(name: str, words: Sequence[str], multi_label: bool = False) -> None:
    """Raise ValueError for a name that no metric has, or that does not suit these label words; none: free text."""
    for part in name.split("+"):
        if multi_label and part in METRIC_NAMES and part not in OF_SETS:
            raise ValueError(f"metric {part} is not for several labels a text; give one of {', '.join(OF_SETS)}")
        if part == "micro_f1" and not multi_label:
            raise ValueError("metric micro_f1 is for several labels a text (multi_label); of one it is the accuracy")
        if (part in OF_TEXT) == bool(words) and part in METRIC_NAMES:
            suits = ", ".join(OF_TEXT if not words else [one for one in METRIC_NAMES if one not in OF_TEXT])
            raise ValueError(f"metric {part} is for {'free text' if words else 'labels'}; give one of {suits}")
        if part in METRIC_NAMES:
            wrong = next((word for word in words if not is_number(word)), None) if part in OF_NUMBERS else None
            if wrong is not None:
                raise ValueError(f"metric {part} needs label words that are numbers, not {wrong!r}")
        elif not part.startswith(F1_OF):
            raise ValueError(f"metric {part!r} is none of {', '.join((*METRIC_NAMES, 'f1:LABEL'))}")
        elif part.removeprefix(F1_OF) not in words:
            raise ValueError(f"metric {part}: no label is called so; there are {', '.join(words)}")


def metric_title(name: str) -> str:
    """A metric's name as people write it: `mean of accuracy and macro-F1`."""
    parts = [_title(part) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else f"mean of {' and '.join(parts)}"


def _title(part: str) -> str:
    if part.startswith(F1_OF):
        return f"F1 of {part.removeprefix(F1_OF)}"
    return METRIC_NAMES.get(part, part)  # cells may come from elsewhere


def metric(name: str, gold: Sequence[Any], predicted: Sequence[Any], groups: Sequence[Hashable] = ()) -> float:
    """How right the predicted labels are, at most 1.

    Args:
        name: one of `METRIC_NAMES`, or `f1:LABEL`; several joined by `+` are averaged, as SuperGLUE does.
        groups: for `exact`, what each row belongs to, such as its question: a group is right where all its rows are.
            Empty: each row is a group.
        gold: label words, or of several a text a set; for metrics of text, every answer that is right, of each row: the
            best match counts.
        predicted: label words, sets or texts.

    As scikit-learn computes them, which takes two seconds to import: a fourth of the time to a training's first step.
    Macro-F1 is the mean over the labels that some row has, not over those that were only predicted.
    Raises UserError for a name that no metric has.
    """
    if "+" in name:
        return fmean(metric(part, gold, predicted, groups) for part in name.split("+"))
    sets = [[_labels(row) for row in rows] for rows in (gold, predicted)]
    there, said = (Counter(label for row in rows for label in row) for rows in sets)
    right = Counter(label for row, given in zip(*sets, strict=True) for label in row & given)
    if name.startswith(F1_OF):
        label = name.removeprefix(F1_OF)
        return 2 * right[label] / (there[label] + said[label]) if there[label] + said[label] else 0.0
    match name:
        case "accuracy":
            return right.total() / len(gold)
        case "micro_f1":
            both = there.total() + said.total()
            return 2 * right.total() / both if both else 0.0
        case "macro_f1":  # of sets without any label there is none
            return fmean(2 * right[label] / (there[label] + said[label]) for label in there) if there else 0.0
        case "matthews":
            rows = len(gold)
            both = right.total() * rows - sum(there[label] * said[label] for label in there)
            sizes = [rows * rows - sum(count * count for count in counts.values()) for counts in (there, said)]
            return both / math.sqrt(sizes[0] * sizes[1]) if all(sizes) else 0.0
        case "pearson":
            return _correlation([float(label) for label in gold], [float(label) for label in predicted])
        case "spearman":
            return _correlation(_ranks([float(label) for label in gold]), _ranks([float(label) for label in predicted]))
        case "exact":
            whole: defaultdict[Hashable, bool] = defaultdict(lambda: True)
            for group, label, given in zip(groups or range(len(gold)), gold, predicted, strict=True):
                whole[group] &= label == given
            return fmean(whole.values())
        case "exact_text":
            return _best_match(gold, predicted, lambda one, other: float(one == other))
        case "text_f1":
            return _best_match(gold, predicted, _overlap)
    raise UserError(f"metric {name}: unknown; one of {', '.join((*METRIC_NAMES, 'f1:LABEL'))}")


def score_of(name: str, examples: Sequence[Example], said: Sequence[str]) -> float:
    """The metric of that name, of what was said of examples; several labels as one text."""
    sets = any(example.labels is not None for example in examples)
    return metric(name, gold_of(examples), [as_set(text) for text in said] if sets else said, groups_of(examples))


def _labels(row: Any) -> frozenset[Any]:
    """The labels of a row: those of a set, or the one that it is."""
    return row if isinstance(row, frozenset) else frozenset((row,))


def normalised(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and articles."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _best_match(
    gold: Sequence[Sequence[str]], predicted: Sequence[str], match: Callable[[list[str], list[str]], float]
) -> float:
    rows = zip(gold, map(normalised, predicted), strict=True)
    return fmean(max(match(normalised(answer), said) for answer in answers) for answers, said in rows)


def _overlap(right: list[str], said: list[str]) -> float:
    """F1 of the words that both have in common, each as often as both have it."""
    if not right or not said:
        return float(right == said)
    return 2 * (Counter(right) & Counter(said)).total() / (len(right) + len(said))


def of_numbers(name: str) -> bool:
    """Whether a metric needs label words that are numbers."""
    return any(part in OF_NUMBERS for part in name.split("+"))


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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


def majority(name: str, gold: Sequence[Any], groups: Sequence[Hashable] = ()) -> float:
    """What always giving the commonest label, or text, gives, by the metric of that name."""
    [(commonest, _)] = Counter(gold).most_common(1)
    said = commonest[0] if isinstance(commonest, tuple) else commonest  # of several answers in free text
    return metric(name, gold, [said] * len(gold), groups)


def majority_of(name: str, examples: Sequence[Example]) -> float:
    """The same for examples."""
    return majority(name, gold_of(examples), groups_of(examples))

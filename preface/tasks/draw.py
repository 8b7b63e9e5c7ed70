"""Draw splits from parts: the same rows with the same seed on every platform, and no text in two splits."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from preface.tasks.example import Example
from preface.tasks.task import SplitName, SplitRule, Task

ORDER: tuple[SplitName, ...] = ("test", "validation", "train")
"""Who draws first: a text that could stand in two splits goes to the first of them."""


def folded(text: str) -> str:
    """The text as it is compared: lower case, and one space for each run of white space."""
    return " ".join(text.lower().split())


def draw(task: Task, split: SplitName, part: Callable[[str], Sequence[Example]]) -> list[Example]:
    """The examples of a split, in the order of its part; `part` gives the examples of a part by its name.

    A text that an earlier split (see `ORDER`) has drawn is left out, and so is each text of a part that only
    earlier splits draw from: a test split capped at 1,000 rows keeps all its part's texts out of train.
    """
    taken: set[str] = set()
    present = [name for name in ORDER if name in task.splits]
    for position, name in enumerate(present):
        rule = task.splits[name]
        if name != split and not rule.apart:
            continue
        rows = part(rule.part)
        free = [i for i, row in enumerate(rows) if not taken or folded(row.text) not in taken]
        chosen = _chosen(rule, rows, free)
        if name == split:
            return [rows[i] for i in chosen]
        shared = any(task.splits[later].part == rule.part for later in present[position + 1 :])
        taken.update(folded(rows[i].text) for i in (chosen if shared else free))
    raise AssertionError(f"{task.name} has no split {split}")


def _chosen(rule: SplitRule, rows: Sequence[Example], free: list[int]) -> list[int]:
    if not free or (rule.share is None and (rule.size is None or rule.size >= len(free))):
        return free
    # random() is the one method whose sequence Python guarantees to keep between versions
    generator = random.Random(rule.seed)
    ranks = {i: generator.random() for i in free}
    shuffled = sorted(free, key=ranks.__getitem__)
    if rule.share is None:
        return sorted(shuffled[: rule.size])
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for i in shuffled:
        by_label[rows[i].label].append(i)
    quotas = _quotas({label: len(group) for label, group in by_label.items()}, rule.share, rule.size)
    return sorted(i for label, group in by_label.items() for i in group[: quotas[label]])


def _quotas(counts: dict[str | None, int], share: float, size: int | None) -> dict[str | None, int]:
    """How many rows to draw of each label: its share, but 2 if there are so many and one is left over."""
    total = sum(counts.values())
    if size is not None:
        share = min(share, size / total)
    quotas = {label: min(max(2, round(count * share)), count - 1) for label, count in counts.items()}
    while size is not None and sum(quotas.values()) > size:
        largest = max(quotas, key=lambda label: quotas[label])
        quotas[largest] -= 1
    return quotas

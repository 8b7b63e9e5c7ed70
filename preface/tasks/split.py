"""Load splits, and examples to predict on. Splits are the same rows with the same seed on every platform."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar, get_args

from preface.errors import UserError
from preface.tasks.example import Example
from preface.tasks.find import Part, Source, read_part, strict
from preface.tasks.load import INPUT_NAMES, load_task
from preface.tasks.read import OnBad, Row, iter_rows
from preface.tasks.task import SplitName, SplitRule, Task, example_of, known_label

T = TypeVar("T")
ReadPart = Callable[[str], Part]
"""Reads a part of a task's source by its name, once."""

MIXED_DEVELOPMENT = 2000
"""Development rows of a mixture, at most: as many of each task."""
ORDER: tuple[SplitName, ...] = ("test", "validation", "train")
"""Who draws first: a text that could stand in two splits goes to the first of them."""


@dataclass(frozen=True)
class Split:
    """The examples of one split of a task, and what they were read from."""

    task: str
    split: SplitName
    examples: list[Example]
    sources: list[Source]
    skipped: list[str]
    """Messages of the bad rows left out of the part that the split is drawn from."""
    parts: tuple[int, ...] = ()
    """Of a mixture, how many rows there are of each task, one after the other."""


def load_split(
    task: str | Path | Task,
    split: str,
    *,
    data: str | Path | None = None,
    skip_bad_rows: bool = False,
) -> Split:
    """Load a split. `data` is the folder of data files, by default what PREFACE_DATA names.

    A place is looked for in this order: the data folder, a YAML task's own folder, the hub, the package. With
    `skip_bad_rows`, rows that cannot be used are left out and listed; otherwise the first of them raises.

    Raises UserError if the task has no such split, its rows are found nowhere, a row is bad, no row is left,
    or train has only one label.
    """
    task = load_task(task)
    if split not in task.splits:
        raise UserError(f"{task.name} has no split '{split}'; it has {', '.join(task.splits)}")
    name: SplitName = next(known for known in get_args(SplitName) if known == split)

    def reader(own: Task) -> ReadPart:
        return cache(lambda part: read_part(own, part, data, skip_bad_rows))

    if task.mixture:
        return _mixed(task, name, reader)
    return drawn(task, name, reader(task))


def drawn(task: Task, name: SplitName, read: ReadPart) -> Split:
    """A split of one task, drawn from its parts. Raises UserError as `load_split` does."""
    rule = task.splits[name]
    own = read(rule.part)

    def examples_of(part: str) -> list[Example]:
        try:
            return read(part).examples
        except UserError as error:
            raise UserError(f"{error}; it is needed to keep its texts out of {name}") from error

    examples = draw(task, name, examples_of)
    if not examples:
        before = [n for n in ORDER[: ORDER.index(name)] if n in task.splits and task.splits[n].part == rule.part]
        drawn = f", and {' and '.join(before)} took theirs first" if before else ""
        raise UserError(
            f"{task.name}: an empty split: no rows are left for {name} (its part '{rule.part}' has "
            f"{len(own.examples)} usable rows{drawn}); give more data, other options or another task"
        )
    labels = {example.label for example in examples}
    if name == "train" and len(labels) < 2 and not task.free_text:
        raise UserError(f"{task.name}: only one label, '{labels.pop()}', in {name}; training needs two or more")
    return Split(task.name, name, examples, own.sources, own.skipped)


def _mixed(task: Task, split: SplitName, reader: Callable[[Task], ReadPart]) -> Split:
    """A split of a mixture. Texts that another of its tasks has in an earlier split (see `ORDER`) are left out."""
    readers = [(own, reader(own)) for own in task.mixture]
    each = [drawn(own, split, read) for own, read in readers]
    if split == "validation":
        each = [sampled(part, max(1, MIXED_DEVELOPMENT // len(each))) for part in each]
    before = ORDER[: ORDER.index(split)]
    earlier = [
        drawn(own, name, read)
        for own, read in readers
        for name in before
        if name in own.splits and own.splits[name].apart
    ]
    taken = {folded(example.text) for part in earlier for example in part.examples}
    free = [[example for example in part.examples if folded(example.text) not in taken] for part in each]
    if empty := next((part.task for part, examples in zip(each, free, strict=True) if not examples), None):
        raise UserError(
            f"{task.name}: another of its tasks has all texts of {empty}'s {split} rows in {' or '.join(before)}"
        )
    return Split(
        task.name,
        split,
        examples=[example for examples in free for example in examples],
        sources=list(dict.fromkeys(source for part in each for source in part.sources)),
        skipped=list(dict.fromkeys(line for part in each for line in part.skipped)),
        parts=tuple(len(examples) for examples in free),
    )


def sampled(split: Split, rows: int) -> Split:
    """So many rows of a split, of a mixture so many of each task, sampled with a fixed seed; all where there are no
    more."""
    chosen = [random.Random(0).sample(own, rows) if rows < len(own) else own for own in _by_task(split)]
    return _joined(split, chosen)


def _by_task(split: Split) -> list[list[Example]]:
    """The examples of each task of a mixture; of another split all together."""
    examples = iter(split.examples)
    return [list(islice(examples, size)) for size in split.parts or (len(split.examples),)]


def _joined(split: Split, each: Sequence[Sequence[Example]]) -> Split:
    """A split with other examples, of each task those."""
    sizes = tuple(map(len, each)) if split.parts else ()
    return replace(split, examples=[example for some in each for example in some], parts=sizes)


def iter_examples(
    task: Task,
    source: str | Path | Iterable[Row],
    *,
    skip_bad_rows: bool = False,
    on_skip: Callable[[str], None] | None = None,
    encoding: str = "utf-8",
    guess: bool = True,
) -> Iterator[tuple[Row, Example]]:
    """Stream examples from a file, from standard input (`-`) or of rows, labelled or not, as they arrive.

    With `guess`, the first usual name for a text is taken where a file has not the task's input field. A label is
    None where the row has none that the task knows, by its value or its word. With `skip_bad_rows`, rows that
    cannot be used are left out, and `on_skip` gets their messages. Raises UserError as `load_split` does.
    """
    on_bad: OnBad = (on_skip or (lambda message: None)) if skip_bad_rows else strict
    names = task.text_fields
    # which field is the text may be guessed
    free = guess and "text" in task.layout.names and len(task.fields.input) == 1
    need = (*names, *INPUT_NAMES) if free else names
    fitted: Task | None = None
    rows = iter_rows(source, encoding=encoding, need=need, on_bad=on_bad) if isinstance(source, str | Path) else source
    for row in rows:
        if fitted is None:
            fitted = _fitted(task, row) if free else task
        try:
            example = example_of(fitted, row, known_label(fitted, row))
        except UserError as error:
            on_bad(str(error))
        else:
            yield row, example


def _fitted(task: Task, row: Row) -> Task:
    """The task with the first usual name that the row has for the text, where it has not the task's."""
    name = next((name for name in (*task.fields.input, *INPUT_NAMES) if name in row.fields), None)
    return task if name in (None, *task.fields.input) else load_task(task, input=name)


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
    together: dict[str, list[int]] = defaultdict(list)
    for i in free:
        together[rows[i].group or str(i)].append(i)
    shuffled = [together[name] for name in _shuffled(together, random.Random(rule.seed))]
    one_label = all(not rows[i].answers and rows[i].labels is None for i in free)
    if rule.share is None or len(shuffled) < len(free) or not one_label:
        size = len(free) if rule.share is None else max(1, round(rule.share * len(free)))
        return sorted(_filled(shuffled, min(size, rule.size or size)))
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for (i,) in shuffled:
        by_label[rows[i].label].append(i)
    quotas = _quotas({label: len(group) for label, group in by_label.items()}, rule.share, rule.size)
    return sorted(i for label, group in by_label.items() for i in group[: quotas[label]])


def labelled(task: Task, split: Callable[[str], Split]) -> Split:
    """All labelled rows but those of the test, as a training split; `split` reads one by its name."""
    training = split("train")
    if "validation" not in task.splits:
        return training
    development = split("validation")
    sources = list(dict.fromkeys([*training.sources, *development.sources]))
    skipped = list(dict.fromkeys([*training.skipped, *development.skipped]))
    each = [own + held for own, held in zip(_by_task(training), _by_task(development), strict=True)]
    return _joined(replace(training, sources=sources, skipped=skipped), each)


def check_limits(train_rows: int | None, shots: int | None, of: str = "") -> None:
    """Raise UserError where both are given; `of`: whose they are."""
    if train_rows is not None and shots is not None:
        raise UserError(f"{of}shots: is a number of rows of each label, train-rows of all rows; give one of the two")


def few(split: Split, shots: int, draw: int) -> Split:
    """So many rows of each label, drawn by a seed, in the order of the split; all of a label that has fewer.

    Raises UserError where answers are free text, or several labels.
    """
    if any(example.labels is not None for example in split.examples):
        raise UserError(f"shots: are rows of each label, and texts of {split.task} may have several; give train-rows")
    if any(example.answers for example in split.examples):
        raise UserError(
            f"shots: are rows of each label, and the answers of {split.task} are free text; give train-rows"
        )
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for place, example in enumerate(split.examples):
        by_label[example.label].append(place)
    generator = random.Random(draw)
    chosen = [place for label in sorted(by_label, key=str) for place in _shuffled(by_label[label], generator)[:shots]]
    return replace(split, examples=[split.examples[place] for place in sorted(chosen)], parts=())


def _shuffled(items: Iterable[T], generator: random.Random) -> list[T]:
    # random() is the one method whose sequence Python guarantees to keep between versions
    ranks = {item: generator.random() for item in items}
    return sorted(ranks, key=ranks.__getitem__)


def _filled(groups: Iterable[list[int]], size: int) -> list[int]:
    """Whole groups until there are `size` rows, or as many as fit; at least one group."""
    chosen: list[int] = []
    for group in groups:
        if chosen and len(chosen) + len(group) > size:
            break
        chosen += group
    return chosen


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

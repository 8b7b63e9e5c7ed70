"""Evaluation inputs stay out of the corpus: find them in a text, whatever their case and punctuation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from preface.tasks import Example, Task, load_split, load_task
from preface.tasks.find import read_part

RUN = 12
"""Any run of so many words of an input counts as the input; a shorter input counts as a whole."""
SHORTEST = 6
"""An input of fewer words counts only where it is a whole document: else `a good film` would empty the corpus."""
WORD = re.compile(r"[^\W_]+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Match:
    """A run of words that an input of `task` has too, and its first and last character (exclusive) in the text."""

    start: int
    end: int
    task: str
    words: str
    """The run as it was compared: lower case, single spaces."""


@dataclass(frozen=True)
class _Runs:
    """Runs of one length: their hashes, ascending, and where each begins in the words of all inputs."""

    hashes: np.ndarray
    positions: np.ndarray


class KeepOut:
    """The words of evaluation inputs, indexed by the hashes of their runs; each match is verified word by word."""

    def __init__(self, inputs: Iterable[tuple[str, str]]) -> None:
        """From pairs of task and text."""
        self.inputs = 0
        self.ids: dict[str, int] = {}
        """A number, from 1, of each word that an input has; 0 stands for all other words and never matches."""
        self.whole: dict[tuple[str, ...], str] = {}
        """The task of each input of fewer than SHORTEST words."""
        self.tasks: list[str] = []
        digest = hashlib.sha256()
        numbers: list[int] = []
        starts: list[int] = []
        for task, text in inputs:
            words = _words(text)
            digest.update(f"{task}\t{' '.join(words)}\n".encode())
            self.inputs += 1
            if len(words) >= SHORTEST:
                starts.append(len(numbers))
                self.tasks.append(task)
                numbers += [self.ids.setdefault(word, len(self.ids) + 1) for word in words]
            elif words:
                self.whole.setdefault(tuple(words), task)
        self.fingerprint = digest.hexdigest()
        """Changes with the inputs and their order."""
        self.words = np.array(numbers, dtype=np.uint64)
        self.starts = np.array(starts, dtype=np.int64)
        self.runs = dict(self._indexed())

    @classmethod
    def of(cls, tasks: Sequence[str], data: str | Path | None = None) -> KeepOut:
        """From the validation and test inputs of the tasks; `data` is the folder of their files.

        Where such a split is drawn from a part that train does not use, all rows of the part count, also
        those beyond its size and those whose label has no word. Raises UserError as `load_split` does.
        """
        return cls((name, text) for name in tasks for text in _inputs(load_task(name), data))

    def find(self, text: str) -> list[Match]:
        """Every run of words of the text that may not be in the corpus, in order; runs may overlap."""
        words = _words(text)
        if len(words) < SHORTEST:
            task = self.whole.get(tuple(words))
            return [] if task is None else _matches(text, words, [(0, len(words), task)])
        ids = np.fromiter(map(self.ids.get, words, repeat(0)), np.uint64, len(words))
        found: list[tuple[int, int, str]] = []
        for length, hashes in _hashes(ids, self.runs):
            runs = self.runs[length]
            at = np.searchsorted(runs.hashes, hashes)
            for start in np.flatnonzero(runs.hashes.take(at, mode="clip") == hashes):
                task = self._task(runs, at[start], ids[start : start + length])
                if task is not None:
                    found.append((int(start), length, task))
        return _matches(text, words, sorted(found)) if found else []

    def matches(self, text: str) -> bool:
        """Whether the text holds an evaluation input."""
        return bool(self.find(text))

    def _indexed(self) -> Iterator[tuple[int, _Runs]]:
        lengths = np.diff(self.starts, append=len(self.words))
        left = np.repeat(self.starts + lengths, lengths) - np.arange(len(self.words))
        """Words from each word to the end of its input."""
        for length, hashes in _hashes(self.words, range(SHORTEST, RUN + 1)):
            positions = np.flatnonzero(left >= RUN) if length == RUN else self.starts[lengths == length]
            if len(positions):
                order = np.argsort(hashes[positions], kind="stable")
                yield length, _Runs(hashes[positions][order], positions[order])

    def _task(self, runs: _Runs, at: int, ids: np.ndarray) -> str | None:
        """The task of the first input that has this very run; hashes alone could agree by chance."""
        for i in range(at, len(runs.hashes)):
            if runs.hashes[i] != runs.hashes[at]:
                break
            position = runs.positions[i]
            if np.array_equal(self.words[position : position + len(ids)], ids):
                return self.tasks[np.searchsorted(self.starts, position, side="right") - 1]
        return None


def _inputs(task: Task, data: str | Path | None) -> Iterator[str]:
    """The evaluation inputs of a task: whole texts, and each field where there are several."""
    for example in _examples(task, data):
        yield example.text
        if len(example.fields) > 1:
            yield from example.fields.values()


def _examples(task: Task, data: str | Path | None) -> Iterator[Example]:
    train = task.splits.get("train")
    whole: set[str] = set()
    for split in ("validation", "test"):
        rule = task.splits.get(split)
        if rule is None:
            continue
        if train is not None and rule.part == train.part:
            examples = load_split(task, split, data=data).examples
        elif rule.part in whole:
            continue
        else:
            whole.add(rule.part)
            labelled = task.model_copy(update={"labels": {value: word or value for value, word in task.labels.items()}})
            examples = read_part(labelled, rule.part, data, skip_bad_rows=False).examples
        yield from examples


def _words(text: str) -> list[str]:
    return WORD.findall(_lowered(text))


def _lowered(text: str) -> str:
    """Lower case, character for character: İ is the one whose lower case is two, Σ's depends on its neighbours."""
    return text.replace("İ", "i").lower().replace("ς", "σ")


def _hashes(ids: np.ndarray, lengths: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each length, ascending: the hash of each run of so many words."""
    hashes = ids
    for length in range(2, max(lengths, default=0) + 1):
        hashes = hashes[:-1] * MULTIPLIER + ids[length - 1 :]
        if length in lengths:
            yield length, hashes


def _matches(text: str, words: Sequence[str], found: Iterable[tuple[int, int, str]]) -> list[Match]:
    spans = [word.span() for word in WORD.finditer(_lowered(text))]
    return [
        Match(spans[start][0], spans[start + length - 1][1], task, " ".join(words[start : start + length]))
        for start, length, task in found
    ]

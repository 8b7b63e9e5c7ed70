"""What reading once is worth: the same texts under many prompts, read once, beside one prompt after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.fit import loaded
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.methods import PrefixTuning
from preface.methods.init import Initializer
from preface.tasks import Task, render
from preface.tasks.options import DataOptions

ROUNDS = 3


@dataclass(frozen=True)
class ManyPrompts:
    """Seconds for all texts under all prompts."""

    prompts: int
    texts: int
    pieces: float
    """Of a text, on the mean."""
    together: float
    """Each text is read once, and answered under all prompts."""
    apart: float
    """As many times as there are prompts: one prompt labels all texts."""

    def __str__(self) -> str:
        return (
            f"{self.texts} texts of {self.pieces:.0f} pieces under {self.prompts} prompts: {self.together:.2f} s read "
            f"once, {self.apart:.2f} s one prompt after the other ({self.apart / self.together:.1f} times)"
        )


def many_prompts(
    backbone: Backbone | str | Path,
    task: Task | str | Path,
    prompts: int = 10,
    texts: int = 4,
    device: str = "auto",
    data: DataOptions | None = None,
) -> ManyPrompts:
    """Time prefixes that only the answer sees on the first test rows of a task. Their numbers are random: time is all
    that is asked.
    """
    model, options = loaded(backbone, device=device), data or DataOptions()
    the_task = options.task(task)
    examples = options.split(the_task, "test").examples[:texts]
    words = LabelWords.of(model, the_task.label_words, the_task.cue)
    ids, _ = render(model.tokenize, examples, 512, model.question("{text}", the_task.cue))
    method = PrefixTuning(length=10, sites=(model.answer_site,))
    with torch.no_grad():
        population = method.build(model, Initializer.parse("random"), range(prompts))()
    every = Labeller(model, population, words)
    each = [Labeller(model, population.select([index]), words) for index in range(prompts)]

    def together() -> None:
        every.label_each(Inputs(model, ids))

    def apart() -> None:
        for labeller in each:
            labeller.label_each(Inputs(model, ids))

    together()
    apart()
    times = [(_seconds(together), _seconds(apart)) for _ in range(ROUNDS)]
    first, second = zip(*times, strict=True)
    return ManyPrompts(prompts, len(ids), fmean(map(len, ids)), median(first), median(second))


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

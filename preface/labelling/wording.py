"""Which wording a bare backbone is given: the one that does best on development rows, never on test rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preface.backbones.base import Backbone
from preface.labelling.answers import PLAIN, predictions_on
from preface.labelling.options import Calibration
from preface.prompts import Prompts
from preface.tasks import Example, Task
from preface.tasks.example import literal
from preface.tasks.metric import score_of
from preface.tasks.task import BEST, Instruction
from preface.terminal.progress import say

ROWS = 200
"""Development rows, at most, that wordings are compared on: each wording reads them all."""


@dataclass(frozen=True)
class Wording:
    """A wording, and how it was chosen."""

    instruction: Instruction
    chosen_on: str | None = None
    """`TASK, N development rows, SCORE`; None: it was given, or there was nothing to choose by."""


def wordings(task: Task) -> list[Instruction]:
    """Those of the task, before them the text alone, and the text with the words to choose from."""
    every = [PLAIN, *task.instructions]
    if not task.free_text:
        some = "Any" if task.multi_label else "One"
        every.insert(1, Instruction(template=f"{{text}}\n{some} of: {literal(', '.join(task.label_words))}."))
    return list(dict.fromkeys(every))


def best_wording(
    backbone: Backbone,
    task: Task,
    development: Sequence[Example],
    max_input_tokens: int,
    most: int = ROWS,
    calibration: Calibration = "none",
    among: Sequence[Instruction] | None = None,
) -> Wording:
    """The wording, `among` some or all of the task, that the bare backbone is most often right with on development
    rows, `most` of them; of equals the first."""
    rows = list(development)
    if len(rows) > most:
        rows = random.Random(0).sample(rows, most)
    scores: dict[Instruction, float] = {}
    for instruction in wordings(task) if among is None else among:
        (given,), _ = predictions_on(
            backbone, rows, task.label_words, [Prompts.bare()], max_input_tokens=max_input_tokens,
            instruction=instruction, cue=task.cue, title=f"{task.name} · wording {len(scores) + 1}",
            calibration=calibration, answer_pieces=task.answer_pieces, multi_label=task.multi_label,
        )  # fmt: skip
        scores[instruction] = score_of(task.metric, rows, [prediction.label for prediction in given])
    best = max(scores, key=lambda instruction: scores[instruction])
    say(f"zero-shot: of {len(scores)} wordings {best.shown} does best on {len(rows)} development rows of {task.name}")
    return Wording(best, f"{task.name}, {len(rows)} development rows, {task.metric} {100 * scores[best]:.1f}")


def with_best_wording(backbone: Backbone, task: Task, development: Sequence[Example], max_input_tokens: int) -> Task:
    """A task whose wording is `best` with that one in its place: of those about the whole text that ask for the label
    words themselves. Other tasks as they are."""
    if task.wording != BEST:
        return task
    some = [one for one in wordings(task) if not one.answers and one.layout.names == ("text",)]
    best = best_wording(backbone, task, development, max_input_tokens, among=some)
    return task.model_copy(update={"wording": best.instruction.template})

"""Mixtures: several tasks as one, their rows together, each in its own words."""

from __future__ import annotations

from collections.abc import Sequence

from preface.errors import UserError
from preface.tasks.task import CUE, WHOLE, DataSource, Fields, SplitRule, Task

PLUS = "+"
"""Between the tasks of a mixture, as in `sst2+trec`."""


def mixture_of(tasks: Sequence[Task]) -> Task:
    """One task of several.

    Its labels are the label words of all of them, its splits those that all have. There is one wording for all, and for
    models that go on writing one cue: the tasks' own where they agree.

    Raises UserError where a task stands there twice, has free text for answers or several labels a text,
    or the tasks have no split in common.
    """
    name = PLUS.join(task.name for task in tasks)
    if written := [task.name for task in tasks if task.free_text]:
        raise UserError(f"{name}: the answers of {written[0]} are free text; a mixture is of tasks with labels")
    if several := [task.name for task in tasks if task.multi_label]:
        raise UserError(f"{name}: texts of {several[0]} may have several labels; a mixture is of tasks with one a text")
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError(f"{name}: a task stands there twice")
    splits = {split: SplitRule(part=split) for split in tasks[0].splits if all(split in task.splits for task in tasks)}
    if "train" not in splits:
        raise UserError(f"{name}: not all of them have rows to train on")
    cues, wordings = {task.cue for task in tasks}, {task.wording for task in tasks}
    return Task(
        name=name,
        description=f"{len(tasks)} tasks together",
        source=DataSource(),
        fields=Fields(input=("text",), label="label"),
        cue=cues.pop() if len(cues) == 1 else CUE,
        wording=wordings.pop() if len(wordings) == 1 else WHOLE,
        labels={word: word for task in tasks for word in task.label_words},
        splits=splits,
        mixture=tuple(tasks),
    )

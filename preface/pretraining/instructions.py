"""Tasks as natural-language instructions, and how to mix tasks (Wei et al. 2022, section 2)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from preface.errors import UserError
from preface.tasks import Example, Task
from preface.tasks.example import literal
from preface.tasks.lines import listed
from preface.tasks.task import Instruction

SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]]*$""")


def worded(
    task: Task, examples: Sequence[Example], *, cap: int | None = 30_000, words: int | None = None, seed: int = 0
) -> list[list[Example]]:
    """Examples of a task under each of its instructions: one list a template, with the same rows in order.

    A caller that takes a row of a list drawn at random sees each row in many wordings. A task without
    instructions has one that lists its label words. At most `cap` rows are drawn. With `words`, each field is
    cropped to so many words, for each template anew (see `crop`).

    Raises UserError if an instruction's answers are not for the task's label words.
    """
    instructions = task.instructions or (generic(task),)
    answers = [answers_of(task, instruction) for instruction in instructions]
    rng = random.Random(seed)
    if cap is not None and len(examples) > cap:
        ranks = [rng.random() for _ in examples]
        examples = [examples[i] for i in sorted(sorted(range(len(examples)), key=ranks.__getitem__)[:cap])]
    return [
        [Example(_cropped(each.fields, words, rng), given[str(each.label)], instruction.layout) for each in examples]
        for instruction, given in zip(instructions, answers, strict=True)
    ]


def generic(task: Task) -> Instruction:
    """An instruction for any task: its text, then its label words as options."""
    return Instruction(template=f"{task.template}\nOptions: {literal(', '.join(task.label_words))}.\nAnswer:")


def answers_of(task: Task, instruction: Instruction) -> dict[str, str]:
    """The answer for each label word; raises UserError if the instruction has answers for other words."""
    if task.free_text:
        raise UserError(f"{task.name}: its answers are free text; instructions are told with tasks that have labels")
    if task.multi_label:
        raise UserError(f"{task.name}: its texts may have several labels; instructions are told with one label a text")
    answers = instruction.answers or {word: word for word in task.label_words}
    # not checked with the task: its label words can be replaced when it is loaded
    if set(answers) != set(task.label_words):
        raise UserError(
            f"{task.name}: instruction '{instruction.template}': answers has {listed(answers)}; "
            f"give one for each label word: {listed(task.label_words)}"
        )
    return answers


def mixing_rates(sizes: Mapping[str, int], cap: int = 30_000, maximum: int = 3_000) -> dict[str, float]:
    """The share of each task, by its rows, in a mixture: proportional to its size, counted as at most `maximum`.

    `cap` is the number of rows that a task was cut to. Raises ValueError if no task has rows.
    """
    counted = {name: min(size, cap, maximum) for name, size in sizes.items()}
    total = sum(counted.values())
    if total <= 0:
        raise ValueError("a mixture needs a task with rows")
    return {name: count / total for name, count in counted.items()}


def crop(text: str, words: int, rng: random.Random) -> str:
    """A random run of `words` words that begins where a sentence does; the text itself if it has no more words.

    Near the end of the text the run may be shorter, but not less than half as long.
    """
    if words < 1:
        raise ValueError(f"words is {words}; a crop needs 1 or more")
    tokens = text.split()
    if len(tokens) <= words:
        return text
    last = len(tokens) - (words + 1) // 2
    starts = [0] + [i for i in range(1, last + 1) if SENTENCE_END.search(tokens[i - 1])]
    start = starts[int(rng.random() * len(starts))]
    return " ".join(tokens[start : start + words])


def _cropped(fields: Mapping[str, str], words: int | None, rng: random.Random) -> Mapping[str, str]:
    return fields if words is None else {name: crop(value, words, rng) for name, value in fields.items()}

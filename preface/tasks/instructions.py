"""Tasks as natural-language instructions, and how to mix tasks (Wei et al. 2022, section 2)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

from preface.errors import UserError
from preface.tasks.example import Example
from preface.tasks.load import load_split, load_task
from preface.tasks.task import Instruction, Task
from preface.tasks.wording import listed

MARK = "\0"
"""Set around the fields of a text to find them again; files with a NUL byte in a field are refused."""
SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]]*$""")

Fields = dict[str, str]
Labelled = tuple[Fields, str]
"""The fields of a row, and its label word."""


def load_instructions(
    task: str | Path | Task,
    split: str = "train",
    *,
    data: str | Path | None = None,
    cap: int | None = 30_000,
    words: int | None = None,
    seed: int = 0,
) -> list[list[Example]]:
    """The examples of a split under each instruction of the task: one list a template, with the same rows in order.

    A caller that takes a row of a list drawn at random sees each row in many wordings. A task without
    instructions has one that lists its label words. At most `cap` rows are drawn. With `words`, each field is
    cropped to so many words, for each template anew (see `crop`).

    Raises UserError as `load_split` does, and if an instruction's answers are not for the task's label words.
    """
    task = load_task(task)
    return worded(task, read_rows(task, split, data), cap=cap, words=words, seed=seed)


def worded(
    task: Task, rows: list[Labelled], *, cap: int | None = 30_000, words: int | None = None, seed: int = 0
) -> list[list[Example]]:
    """Rows, as `read_rows` gives them, under each instruction of the task; see `load_instructions`."""
    instructions = task.instructions or (generic(task),)
    answers = [answers_of(task, instruction) for instruction in instructions]
    rng = random.Random(seed)
    if cap is not None and len(rows) > cap:
        ranks = [rng.random() for _ in rows]
        rows = [rows[i] for i in sorted(sorted(range(len(rows)), key=ranks.__getitem__)[:cap])]
    return [
        [Example(filled(instruction, _cropped(fields, words, rng)), given[label]) for fields, label in rows]
        for instruction, given in zip(instructions, answers, strict=True)
    ]


def generic(task: Task) -> Instruction:
    """An instruction for any task: its text, then its label words as options."""
    return Instruction(template=f"{task.template}\nOptions: {_literal(', '.join(task.label_words))}.\nAnswer:")


def answers_of(task: Task, instruction: Instruction) -> dict[str, str]:
    """The answer for each label word; raises UserError if the instruction has answers for other words."""
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


def marked(task: Task) -> Task:
    """The task with marks around the fields of its texts, so that `fields_of` finds them again.

    Its texts are the same but for the marks, so its splits draw the same rows.
    """
    template = "".join(
        _literal(literal) + ("" if field is None else f" {MARK} {{{field}}} {MARK} ") for literal, field in task.pieces
    )
    return Task.model_validate(task.model_dump(exclude_unset=True) | {"template": template, "instructions": ()})


def fields_of(task: Task, text: str) -> Fields:
    """The fields that the task's template names, of a text of the marked task."""
    names = [field for _, field in task.pieces if field is not None]
    values = [value.strip() for value in text.split(MARK)[1::2]]
    if len(values) != len(names):
        raise UserError(f"{task.name}: a text holds a NUL byte ('{values[0][:40]}…'); take it out")
    return dict(zip(names, values, strict=True))


def read_rows(task: Task, split: str, data: str | Path | None = None) -> list[Labelled]:
    """The fields that the task's template names, and the label word, of each row of a split."""
    examples = load_split(marked(task), split, data=data).examples
    return [(fields_of(task, example.text), str(example.label)) for example in examples]


def filled(instruction: Instruction | Task, fields: Fields) -> str:
    """The text of a row under an instruction, or under the task's own template."""
    return "".join(literal + (fields[field] if field else "") for literal, field in instruction.pieces).strip()


def _cropped(fields: Fields, words: int | None, rng: random.Random) -> Fields:
    return fields if words is None else {name: crop(value, words, rng) for name, value in fields.items()}


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")

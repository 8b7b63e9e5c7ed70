"""What a task is: where its rows come from, how they become examples, what its labels are, how it splits."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from preface.errors import UserError
from preface.tasks.example import Example, Template
from preface.tasks.label_sets import as_set, as_text, check_words, items_of
from preface.tasks.lines import listed, refuse_half_characters
from preface.tasks.metric import check_metric, is_number
from preface.tasks.read import Format, Row, is_blank

SplitName = Literal["train", "validation", "test"]


def _as_text(value: Any) -> Any:
    """YAML reads `0:` as a number, which is meant as text, but `no:` as false, where the meaning is lost."""
    if isinstance(value, bool):
        raise ValueError(f"YAML reads yes, no, on and off as true and false: write it in quotes, not as {value}")
    return str(value) if isinstance(value, int | float) else value


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


CUE = "Answer:"
"""What stands between a text and its answer where a task names nothing better."""

CHAT = "chat"
"""The cue of texts that stand in the model's own chat template."""
WHOLE = "{text}"
"""The wording that says nothing around a text."""
BEST = "best"
"""The wording that is still to be chosen."""

SENTINEL = "sentinel"
"""The cue of answers that begin after a sentinel, as those that T5 learned by span corruption do (Lester et al. 2021,
section 3.3)."""

SEPARATOR = ";"
"""What stands between several labels in one text where a task names nothing else."""

Text = Annotated[str, BeforeValidator(_as_text)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileSource(Model):
    """Files in a data folder, and how to read them."""

    parts: dict[str, Texts]
    """File name patterns, relative to the data folder, of each part."""
    labels: dict[str, Texts] = {}
    """For `format: txt`: the files whose lines are the labels of the texts in `parts`."""
    format: Format | None = None
    """None: what the file's name says."""
    encoding: str = "utf-8"
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quoted: bool = True
    """False for tables in which quotes are plain characters, as in GLUE's."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of files without a header."""
    nested: dict[str, str] = {}
    """For JSON: the place of each field in nested objects, as `passage.questions.answers.text`. A list on the way
    makes a row of each of its items."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> FileSource:
        wanted = {"text@label": 2, "txt": 2 if self.labels else 1}.get(self.format or "")
        if self.columns is not None and wanted is not None and len(self.columns) != wanted:
            raise ValueError(f"columns needs {wanted} names for the format {self.format}")
        if self.nested and self.format not in (None, "json", "jsonl"):
            raise ValueError(f"nested is for JSON, not for the format {self.format}")
        if self.labels and (self.format != "txt" or set(self.labels) != set(self.parts)):
            raise ValueError("labels needs format: txt, and the same parts as in parts")
        return self


class HubSource(Model):
    """A data set on the Hugging Face hub, or a local folder in the same format."""

    id: str
    revision: str | None = None
    config: str | None = None
    folder: str | None = None
    """Read only the files in this folder of the data set's repository."""
    splits: dict[str, str]
    """The split of the data set, such as `train` or `train+test`, that is each part."""


class DataSource(Model):
    """The places a task's parts can be found in; they are tried in this order. A task
    without any was trained on rows that were given in Python."""

    files: FileSource | None = None
    hub: HubSource | None = None
    embedded: dict[str, str] = {}
    """Names of files that come with the package, of each part."""
    where: dict[str, Text] = {}
    """By field, the value that rows must have, as where several data sets lie in one file; others are not read."""

    def takes(self, row: Row) -> bool:
        """Whether `where` takes a row. Raises UserError if the row lacks a field of it."""
        return all(label_value(row.value(field)) == value for field, value in self.where.items())

    @property
    def parts(self) -> set[str]:
        """The parts that at least one place has."""
        files = self.files.parts if self.files else {}
        hub = self.hub.splits if self.hub else {}
        return {*files, *hub, *self.embedded}


class Fields(Model):
    """Which fields of a row are the text and the label."""

    input: Texts
    label: str
    group: tuple[str, ...] = ()
    """Fields that rows which belong together have in common, such as a question with several answers, each right or
    wrong: splits keep them together, and the metric `exact` asks for all of them."""


class SplitRule(Model):
    """How a split is drawn from a part of the source.

    No two splits share a text: test is drawn first, then validation, and train has the rest.
    """

    part: str
    size: PositiveInt | None = None
    """At most so many rows, drawn without replacement, but whole groups."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Draw this share of each label's rows (at least 2, at most all but one), together at most `size`; of rows that
    belong together (`Fields.group`) whole groups, whatever their labels."""
    seed: int = 0
    apart: bool = True
    """False: other splits may have the same texts, as where a whole data file can be the test split."""


class Option(Model):
    """A named choice that changes the task; each value overrides part of its definition."""

    default: Text
    values: dict[Text, dict[str, Any]]

    @model_validator(mode="after")
    def _default_is_a_value(self) -> Option:
        if self.default not in self.values:
            raise ValueError(f"default {self.default!r} is none of the values {', '.join(self.values)}")
        return self


class Instruction(Model):
    """A wording that prompts for the label. In YAML a string is an instruction without answers of its own."""

    template: str
    """Written as a task's template, with fields that the task's template names."""
    answers: dict[Text, Text] = {}
    """What to answer in place of each label word, as yes for positive; empty: the label words themselves."""

    @cached_property
    def layout(self) -> Template:
        """The template as what renders a text."""
        return Template.parse(self.template)

    @property
    def shown(self) -> str:
        """As it is named in a line: `'{text} Is it good?' (negative: no, positive: yes)`."""
        answers = ", ".join(f"{label}: {answer}" for label, answer in self.answers.items())
        return repr(self.template) + (f" ({answers})" if answers else "")

    def __hash__(self) -> int:
        return hash((self.template, tuple(self.answers.items())))

    @model_validator(mode="before")
    @classmethod
    def _of_a_string(cls, value: Any) -> Any:
        return {"template": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _holds_together(self) -> Instruction:
        Template.parse(self.template)
        if len(set(self.answers.values())) < len(self.answers) or "" in self.answers.values():
            raise ValueError(f"answers needs a different word for each label, not {list(self.answers.values())}")
        return self


class Task(Model):
    """Texts, and their labels or their answers in free text. Its name, with the options that differ from their
    defaults, refers to it."""

    name: str
    description: str = ""
    source: DataSource
    fields: Fields
    template: str = "{text}"
    """The text of an example. `{text}` is the input fields, joined by a space; `{x}` is the field x."""
    cue: str = Field(CUE, min_length=1)
    """What stands between a text and its answer for models that go on writing, such as `Sentiment:`; `chat`: the
    model's own chat template stands around the text instead; `sentinel`: T5's answer begins after `<extra_id_0>`."""
    wording: str = WHOLE
    """What stands around a text, `{text}`, where a prompt reads it, such as `sentiment: {text}`; `best`: of
    `instructions` the one that the bare model does best with on development rows. A prompt is trained under it, and
    reads texts of other tasks under it too."""
    instructions: tuple[Instruction, ...] = ()
    """Wordings that prompt for the label, for instruction tuning and for use without a prompt."""
    replace: dict[str, str] = {}
    """Strings to replace in each field of the text, in this order."""
    labels: dict[Text, Text | None] = {}
    """The label word of each label value as text; rows whose value has no word (null) are left out. Empty: the answer
    is free text, and the label's field holds it, or a list of all that are right."""
    answer_pieces: PositiveInt = 32
    """Of free text, the most that are generated."""
    multi_label: bool = False
    """A text may have any number of the labels, also none: its label's field holds a list, or a text."""
    label_separator: str = Field(SEPARATOR, min_length=1)
    """Between several labels in one text."""
    label_step: PositiveFloat | None = None
    """For label values that are numbers: each is rounded to the nearest multiple, written as `labels` write it."""
    metric: str = "accuracy"
    """As `preface.tasks.metric.metric` takes it: `macro_f1`, `f1:yes`, or `accuracy+macro_f1` for their mean."""
    splits: dict[SplitName, SplitRule] = Field(min_length=1)
    options: dict[str, Option] = {}
    mixture: tuple[Task, ...] = ()
    """Tasks whose rows this one is made of, each with its own template; its labels are theirs together."""
    folder: Path | None = None
    """The folder of the task's own YAML file: its data files and its hub folder may lie beside it."""

    @property
    def free_text(self) -> bool:
        """Whether answers are written rather than chosen."""
        return not self.labels

    @property
    def label_words(self) -> tuple[str, ...]:
        """The label words, each once, in the order in which `labels` has them."""
        return tuple(dict.fromkeys(word for word in self.labels.values() if word is not None))

    def words_for(self, other: Task) -> tuple[str, ...]:
        """What something that was trained on this task chooses among on another: the label words of this; after a
        mixture those of the other, where it has learned them all."""
        known = bool(self.mixture) and set(other.label_words) <= set(self.label_words)
        return other.label_words if known else self.label_words

    @cached_property
    def layout(self) -> Template:
        """The template as what renders a text; raises ValueError if it is broken."""
        return Template.parse(self.template)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields of a row that its text is made of."""
        each = ((name,) if name != "text" else self.fields.input for name in self.layout.names)
        return tuple(dict.fromkeys(name for names in each for name in names))

    @model_validator(mode="after")
    def _holds_together(self) -> Task:
        names = self.layout.names
        if self.fields.label in self.fields.input or (self.fields.label in names and self.fields.label != "text"):
            raise ValueError(f"the label field {self.fields.label!r} may not be part of the text")
        for number, instruction in enumerate(self.instructions):
            # splits are drawn by the template's text: with other fields, a text could stand in two splits
            other = next((field for field in instruction.layout.names if field not in names), None)
            if other is not None:
                have = ", ".join(f"{{{name}}}" for name in names)
                raise ValueError(f"instructions.{number}: {{{other}}} is no field of the template, which has {have}")
        if self.wording != BEST and Template.parse(self.wording).names != ("text",):
            raise ValueError(f"wording {self.wording!r}: the text stands in it as {{text}}, and nothing else; or best")
        if self.labels and (len(self.label_words) < 2 or "" in self.label_words):
            raise ValueError(f"labels needs two or more different words, not {list(self.label_words)}")
        if self.multi_label:
            check_words(self.label_words)
        check_metric(self.metric, self.label_words, self.multi_label)
        for name, rule in self.splits.items():
            if rule.part not in self.source.parts and self.source.parts:
                known = ", ".join(sorted(self.source.parts))
                raise ValueError(f"splits.{name}.part {rule.part!r} is no part of the source; parts: {known}")
        return self


def label_value(value: Any) -> str:
    """A label as text: stripped, and `1` for 1.0, which tables make of whole numbers beside a null."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def label_key(task: Task, value: Any) -> str:
    """A label value as the task's `labels` write it."""
    text = label_value(value)
    if task.label_step is None or not is_number(text):
        return text
    nearest = round(float(text) / task.label_step) * task.label_step
    return next(
        (key for key in task.labels if is_number(key) and math.isclose(float(key), nearest, abs_tol=1e-9)), text
    )


def label_of(task: Task, row: Row) -> str | None:
    """The label word of a row, None if the task leaves rows with this label out; of several all, as one text.

    Raises UserError, naming file, line and field, if the field is missing or blank, or its label is unknown.
    """
    field = task.fields.label
    value = row.value(field)
    if task.free_text:
        return _answers(row, field)[0]
    if task.multi_label:
        return _labels(task, row, value)
    if is_blank(value):
        listing = any(SEPARATOR in label for label in task.labels)  # as `a; b`: what was meant may be several of them
        hint = ", unless a text may have any number of them: give --multi-label" if listing else ""
        raise UserError(f"{row.place}: the field '{field}' is empty; each row needs a label{hint}")
    return _word(task, row, value)


def _labels(task: Task, row: Row, value: Any) -> str:
    """All label words of a row, as one text. Of a label without a word nothing is said."""
    if is_blank(value) and not isinstance(value, str):
        raise UserError(f"{row.place}: the field '{task.fields.label}' is empty; a text without labels has [] there")
    found = {_word(task, row, item) for item in items_of(value, task.label_separator)}
    return as_text([word for word in task.label_words if word in found])


def _word(task: Task, row: Row, value: Any) -> str | None:
    """The word of a label value. Raises UserError if it is unknown."""
    field = task.fields.label
    if isinstance(value, list | dict):
        more = "" if task.multi_label else " (with several a text the task is multi_label)"
        raise UserError(f"{row.place}: the field '{field}' is a {type(value).__name__}; a label is one value{more}")
    try:
        return task.labels[label_key(task, value)]
    except KeyError as error:
        raise UserError(
            f"{row.place}: the field '{field}' is {listed([label_value(value)])}; "
            f"known labels are {listed(task.labels)}"
        ) from error


def known_label(task: Task, row: Row) -> str | None:
    """The label word of a row that need not be labelled: None if it has none that the task knows, as value or word."""
    value = row.fields.get(task.fields.label)
    if is_blank(value) or task.free_text or task.multi_label:
        return None
    text = label_key(task, value)
    return task.labels.get(text, text if text in task.label_words else None)


def example_of(task: Task, row: Row, label: str | None) -> Example:
    """The example of a row.

    Raises UserError, naming file, line and field, if a field is missing or blank, or is no text (numbers are
    taken in the task's input fields).
    """
    inputs = task.fields.input
    fields = {}
    for name in task.layout.names:
        text = " ".join([_text(row, each, inputs) for each in (inputs if name == "text" else (name,))])
        for old, new in task.replace.items():
            text = text.replace(old, new)
        fields[name] = text.strip()
    group = _group(row, task.fields.group) if task.fields.group and label is not None else ""
    answers = _answers(row, task.fields.label) if task.free_text and label is not None else ()
    labels = as_set(label) if task.multi_label and label is not None else None
    example = Example(fields, label, task.layout, group, answers, labels)
    if not (text := example.text):
        raise UserError(f"{row.place}: the text is empty once the task's replacements are made; leave the row out")
    refuse_half_characters(text, row.place, inputs)
    return example


def _answers(row: Row, field: str) -> tuple[str, ...]:
    """All answers that are right, each once: a text, a list of them, or, as SQuAD has them, objects with a `text`."""
    value = row.value(field)
    value = value.get("text") if isinstance(value, dict) else value
    items = value if isinstance(value, list) else [value]
    answers: list[Any] = [item.get("text") if isinstance(item, dict) else item for item in items]
    if not answers or any(
        is_blank(answer) or not isinstance(answer, str | int | float) or isinstance(answer, bool) for answer in answers
    ):
        raise UserError(f"{row.place}: the field '{field}' holds no text; each row needs an answer, or a list of them")
    return tuple(dict.fromkeys(label_value(answer) for answer in answers))


def _group(row: Row, fields: tuple[str, ...]) -> str:
    """The same for all rows that have these fields in common; short, for a field may be a whole passage."""
    return hashlib.sha256("\0".join(str(row.value(name)) for name in fields).encode()).hexdigest()[:16]


def _text(row: Row, field: str, inputs: tuple[str, ...]) -> str:
    value = row.value(field)
    if is_blank(value):
        raise UserError(f"{row.place}: the field '{field}' is empty; fill it or leave the row out")
    if isinstance(value, int | float) and not isinstance(value, bool) and field in inputs:
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{row.place}: the field '{field}' is no text but {type(value).__name__}; make it text")
    return value

"""A column of an experiment's table: anything that gives cells for tasks. Each kind is one class in one file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from preface.backbones.base import Backbone
from preface.backbones.load import computed_in, dtype_name, load_backbone, resolved
from preface.errors import UserError
from preface.labelling.measures import measured
from preface.labelling.subjects import check_answers
from preface.records.results import COMPUTED, Cell
from preface.tasks import Example, Split, Task
from preface.tasks.options import DataOptions
from preface.tasks.split import check_limits, few, labelled
from preface.tuning.recipe import Recipe
from preface.tuning.search import Search

T = TypeVar("T")

UNFIT = r"[^\w.+]+"
"""What no folder's name has."""
SEPARATOR = " · "
"""Between the parts of a column's name."""


class Setting:
    """What the columns of an experiment share: its folder, its data, and the backbone that is loaded."""

    def __init__(
        self,
        folder: Path,
        data: DataOptions,
        dtype: str = "auto",
        device: str = "auto",
        backbone: Backbone | None = None,
    ) -> None:
        self.folder, self.data, self.dtype, self.device = folder, data, dtype, device
        self._given = backbone
        self._loaded: dict[str, Backbone] = {}  # one at most; shared by all parts
        self._splits: dict[tuple[str, str, str, int | None], Split] = {}
        self._computed: dict[Hashable, Any] = {}

    def bare(self) -> Setting:
        """The same with nothing loaded or read, for another process; a given backbone is loaded there by its name."""
        dtype = self.dtype if self._given is None else dtype_name(self._given.dtype)
        return Setting(self.folder, self.data, dtype, self.device)

    def backbone(self, name: str) -> Backbone:
        """The backbone of that name, loaded when first needed; only the last one stays in memory, and a given one."""
        name = resolved(name)  # as a loaded one is called
        if self._given is not None and self._given.name == name:
            return self._given
        if name not in self._loaded:
            self._loaded.clear()
            self._loaded[name] = load_backbone(name, self.dtype, self.device)
        return self._loaded[name]

    def part(self, name: str) -> Setting:
        """The same for a part of the experiment, with a folder of its own."""
        part = copy(self)
        part.folder = self.folder / "tasks" / re.sub(UNFIT, "-", name)
        return part

    def task(self, spec: str, trained: Task | None = None) -> Task:
        """The task that `spec` names (`DataOptions.eval_task`)."""
        return self.data.eval_task(spec, trained)

    def split(self, task: Task, name: str, rows: int | None = None) -> Split:
        """A split of a task, or `rows` of it; read once."""
        key = task.name, task.model_dump_json(include={"source", "mixture", "folder"}), name, rows
        if key not in self._splits:
            self._splits[key] = self.data.split(task, name, rows)
        return self._splits[key]

    def drawn(self, task: Task, shots: int, draw: int) -> Split:
        """So many rows of each label, drawn by a seed from all that are labelled and no test."""
        return few(labelled(task, lambda name: self.split(task, name)), shots, draw)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What is computed for a key, which is done once for all columns."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]  # type: ignore[no-any-return]


class Column(BaseModel, ABC):
    """What one kind of column needs to know, and how it comes by its cells.

    Where a field has the name of one of the experiment's, or of its recipe's, the experiment's value is the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    """As an experiment's YAML names it."""
    name: str = ""
    """In the table's head, before the values of the axes; default: the kind, or the method."""
    varied: dict[str, Any] = {}
    """The value of each axis along which the column is one of several."""

    @property
    def base(self) -> str:
        """The name without the values of the axes."""
        return self.name or self.kind

    @property
    def label(self) -> str:
        """In the table's head: `prefix-tuning · length 5`."""
        return SEPARATOR.join([self.base, *(axis_value(axis, value) for axis, value in self.varied.items())])

    @property
    def folder_name(self) -> str:
        """The label as the name of a folder."""
        return re.sub(UNFIT, "-", self.label).strip("-.") or "column"

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        """Names of the fields that may be given, where `fields` are those that are. Raises UserError."""
        return {*cls.model_fields} - {"varied"}

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        """Raise UserError for whatever can be known to be wrong before anything is computed."""

    @abstractmethod
    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        """The cells of one task after another, as they are measured. Raises UserError."""


class Trained(Column):
    """A column that is fitted to the rows of a task before it is measured."""

    train_task: str
    train_rows: int | None = Field(None, ge=1)
    """Rows trained on, sampled with a fixed seed; None: all."""
    writes: ClassVar[bool] = False
    """Whether it can answer in free text."""
    multi_label: ClassVar[bool] = False
    """Whether it can give a text several labels."""

    @property
    def reads(self) -> Sequence[str]:
        """The splits that must be there of the task trained on."""
        return "train", "validation"

    def split(self, setting: Setting, name: str) -> Split:
        """A split of the task trained on; of the training rows, those that are trained on."""
        return setting.split(setting.task(self.train_task), name, self.train_rows if name == "train" else None)

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        trained = setting.task(self.train_task)
        if trained.free_text and not self.writes:
            raise UserError(f"{self.label}: knows labels alone, and the answers of {trained.name} are free text")
        if trained.multi_label and not self.multi_label:
            raise UserError(f"{self.label}: gives a text one label, and texts of {trained.name} may have several")
        for task in tasks:
            check_answers(trained, task)
            if not set(task.label_words) <= set(trained.label_words):
                raise UserError(
                    f"{task.name}: its labels ({', '.join(task.label_words)}) are not those of "
                    f"{trained.name} ({', '.join(trained.label_words)})"
                )
        for name in self.reads:  # last: it takes seconds, and what is wrong above is wrong whatever the rows are
            self.split(setting, name)

    def cell(
        self,
        task: Task,
        examples: Sequence[Example],
        predicted: Sequence[str],
        *,
        words: Sequence[str],
        trained_on: str,
        seconds: float,
        backbone: Backbone | None = None,
        seed: int | None = None,
        trained_parameters: int = 0,
        details: Mapping[str, Any] = {},
    ) -> Cell:
        """What predicted labels of a task's examples amount to; `words`: all labels."""
        value, measures = measured(task.metric, examples, predicted, words)
        computed = {COMPUTED: computed_in(backbone)} if backbone else {}
        return Cell(
            backbone=backbone.name if backbone else "",
            method=self.label,
            train_task=trained_on,
            eval_task=task.name,
            metric=task.metric,
            value=value,
            n=len(examples),
            seed=seed,
            trained_parameters=trained_parameters,
            seconds=seconds,
            details={**computed, **details, **measures},
        )


class ByRecipe(Trained):
    """A column that is trained in steps, as a recipe has it."""

    writes: ClassVar[bool] = True
    backbone: str
    recipe: Recipe
    search: Search | None = None
    """None: every rate is trained in full with every seed. Where there are folds, these choose instead."""
    shots: int | None = Field(None, ge=1)
    """Rows of each label, drawn anew by each seed; needs `folds`. None: all rows, or `train_rows`."""

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        return super().accepts(fields) - {"recipe"} | {*Recipe.model_fields}

    @property
    def reads(self) -> Sequence[str]:
        return super().reads if self.recipe.folds is None else ()

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        super().check(setting, tasks)
        trained = setting.task(self.train_task)
        self.recipe.check_answers(trained.free_text)
        check_limits(self.train_rows, self.shots, f"{self.label}: ")
        if self.shots is None:
            return
        if trained.free_text:
            raise UserError(f"{self.label}: shots are rows of each label, and the task's answers are free text")
        if trained.multi_label:
            raise UserError(f"{self.label}: shots are rows of each label, and a text may have several; give train_rows")
        if self.recipe.folds is None:
            raise UserError(f"{self.label}: with shots there is no development split to choose by; give folds too")


def each_seed(seeds: int | Sequence[int]) -> Sequence[int]:
    """A number of seeds means 0, 1, 2, …"""
    return range(seeds) if isinstance(seeds, int) else seeds


def axis_value(axis: str, value: Any) -> str:
    """`length 5`, `train rows 100`, `sites encoder+decoder`."""
    return f"{axis.replace('_', ' ')} {shown(value)}"


def shown(value: Any) -> str:
    """`5`, `0.01`, `encoder+decoder`."""
    values = value if isinstance(value, list | tuple) else [value]
    return "+".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)

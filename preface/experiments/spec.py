"""What an experiment is: tasks, columns, and the axes along which columns vary. The YAMLs in `specs/` are such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preface.backbones.load import default_backbone
from preface.baselines.column import Column, Trained
from preface.errors import UserError
from preface.experiments.prompt import Prompt
from preface.methods import ALIASES, METHODS
from preface.options import validated
from preface.registry import subclasses
from preface.tasks.options import DataOptions
from preface.tuning.recipe import Recipe
from preface.tuning.search import Search

SPECS = Path(__file__).parent / "specs"

Fields = dict[str, Any]
Axes = dict[str, Annotated[list[Any], Field(min_length=1)]]


def kinds() -> dict[str, type[Column]]:
    """Every kind of column by its name: each module of `preface.baselines` may define one."""
    found = subclasses(Column, "preface.baselines")  # type: ignore[type-abstract]
    return {kind.kind: kind for kind in found if hasattr(kind, "kind")}


class Experiment(BaseModel):
    """Every column on every evaluation task."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    backbone: str = Field(default_factory=default_backbone)
    train_task: str | None = None
    """None: each evaluation task is trained on by itself."""
    eval_tasks: tuple[str, ...] = Field(min_length=1)
    columns: tuple[Fields, ...] = Field(min_length=1)
    """A method or a kind by its name, or a mapping: `method` or `kind`, the fields in which it differs from the
    defaults, a `name`, and axes of its own (`vary`)."""
    vary: Axes = {}
    """Values by field: each column that has such a field becomes one for every value, or combination of values."""
    seeds: int = Field(3, ge=1)
    recipe: Fields = {}
    """Fields of `preface.tuning.recipe.Recipe` for all columns."""
    search: Search | None = None
    """None: every rate is trained in full with every seed. Where there are folds, these choose instead."""
    train_rows: int | None = Field(None, ge=1)
    """Rows trained on; None: all."""
    distances: bool = False
    """Whether the report says how far the texts of the tasks are apart."""
    data: DataOptions = DataOptions()
    """Where data lie, and how data files among the tasks are read."""
    notes: tuple[str, ...] = ()
    """What was chosen where the source leaves a thing open, and why."""
    next: tuple[str, ...] = ()
    """Commands to try next."""

    @field_validator("columns", mode="before")
    @classmethod
    def _named(cls, columns: Any) -> Any:
        """A name alone is that of a kind or of a method."""
        if not isinstance(columns, list | tuple):
            return columns
        return [{"kind" if c in kinds() else "method": c} if isinstance(c, str) else c for c in columns]

    @field_validator("recipe")
    @classmethod
    def _known(cls, recipe: Fields) -> Fields:
        if recipe.keys() & {"seeds", "learning_rates"}:
            raise ValueError("seeds are a field of their own, learning_rates one of each column")
        if unknown := recipe.keys() - {*Recipe.model_fields}:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}; it has {', '.join(Recipe.model_fields)}")
        return recipe

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        names = [column.folder_name for column in self.expanded()]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two columns are called {repeated}; give each a name of its own")
        return self

    def train_tasks(self) -> list[str]:
        """The tasks that some column is trained on, each once."""
        if self.train_task is None:
            return list(self.eval_tasks)
        trained = [column.train_task for column in self.expanded() if isinstance(column, Trained)]
        return list(dict.fromkeys(trained))

    def parts(self) -> dict[str, Experiment]:
        """By task, the experiments on one task each that it consists of; empty where one task is trained on."""
        if self.train_task is not None:
            return {}
        return {
            name: validated(Experiment, dict(self) | {"train_task": name, "eval_tasks": (name,)})
            for name in self.eval_tasks
        }

    def expanded(self) -> list[Column]:
        """The columns, one for each combination of the values of its axes. Raises UserError."""
        found, unused = [], dict(self.vary)
        for number, fields in enumerate(self.columns):
            try:
                kind = kind_of(fields)
                accepted = kind.accepts(fields)
                own = validated(_Axes, {"vary": fields.get("vary", {})}).vary
                check_axes(own, accepted, fields)
                axes = {axis: self.vary[axis] for axis in self.vary if axis in accepted and axis not in fields} | own
                given = {name: value for name, value in self._shared.items() if name in accepted} | fields
                given = {name: value for name, value in given.items() if name not in {"kind", "vary"}}
                for values in product(*axes.values()):
                    varied = dict(zip(axes, values, strict=True))
                    found.append(validated(kind, given | varied | {"varied": varied}))
            except UserError as error:
                raise UserError(f"columns.{number}: {error}") from error
            unused = {axis: values for axis, values in unused.items() if axis not in axes}
        if unused:
            raise UserError(f"vary: no column has a field {', '.join(unused)} to vary")
        return found

    @property
    def _shared(self) -> Fields:
        """Fields that hold for each column that has them."""
        names = ("backbone", "train_task", "train_rows", "seeds", "search")
        given = self.recipe | {name: getattr(self, name) for name in names}
        return given | {"train_task": self.train_task or self.eval_tasks[0]}

    def measured(self) -> Fields:
        """All that decides a number: not the title, the notes, what is said beside, or where data lie."""
        fields = self.model_dump(mode="json", exclude={"title", "notes", "next", "distances"})
        del fields["data"]["data"]
        return fields

    def changed(
        self,
        *,
        backbone: str | None = None,
        task: str | None = None,
        on: str | Sequence[str] = (),
        seeds: int | None = None,
        steps: int | None = None,
        train_rows: int | None = None,
        **data: Any,
    ) -> Experiment:
        """The experiment with other values, which columns and axes have then no others of; None and empty ones change
        nothing. `data`: fields of `DataOptions`."""
        on = (on,) if isinstance(on, str) else on
        named = {"backbone": backbone, "train_task": task, "eval_tasks": on, "seeds": seeds, "train_rows": train_rows}
        changes: Fields = {name: value for name, value in named.items() if value}
        gone = {*changes, *(["steps"] if steps else [])}
        changes["vary"] = _without(self.vary, gone)
        changes["columns"] = [_without(column, gone) for column in self.columns]
        if steps:
            changes["recipe"] = self.recipe | {"steps": steps}
            changes["search"] = self.search and self.search.within(steps)
            changes["columns"] = [_searched_within(column, steps) for column in changes["columns"]]
        given = {name: value for name, value in data.items() if value}
        changes["data"] = validated(DataOptions, self.data.model_dump(exclude_unset=True) | given)
        return validated(Experiment, dict(self) | changes)


def _without(fields: Fields, names: set[str]) -> Fields:
    """A column's fields, or axes, without those of some names."""
    left = {name: value for name, value in fields.items() if name not in names}
    if "vary" in left:
        left["vary"] = _without(left["vary"], names)
    return left


def _searched_within(column: Fields, steps: int) -> Fields:
    """A column whose own search, if it has one, takes at most so many steps."""
    if not column.get("search"):
        return column
    return column | {"search": Search.model_validate(column["search"]).within(steps)}


class _Axes(BaseModel):
    vary: Axes


def kind_of(fields: Mapping[str, Any]) -> type[Column]:
    """The kind of column that these fields describe. Raises UserError."""
    known, name = kinds(), str(fields.get("kind", Prompt.kind))
    if name not in known:
        raise UserError(f"kind {name}: unknown; one of {', '.join(sorted(known))}")
    if "kind" not in fields and str(method := fields.get("method")) not in {*METHODS, *ALIASES}:
        raise UserError(f"{method}: neither a method ({', '.join(METHODS)}) nor a kind ({', '.join(sorted(known))})")
    return known[name]


def check_axes(axes: Axes, accepted: set[str], fields: Mapping[str, Any]) -> None:
    """Raise UserError for an axis that is no field, or that has a value beside it."""
    for axis in axes:
        if axis not in accepted:
            raise UserError(f"vary: {axis} is no field of this column; it has {', '.join(sorted(accepted))}")
        if axis in fields:
            raise UserError(f"vary: {axis} has a value in this column already ({fields[axis]}); remove one of them")


def load_experiment(name_or_path: str | Path) -> Experiment:
    """A shipped experiment by name, or a YAML by path. Raises UserError."""
    path = SPECS / f"{name_or_path}.yaml"
    if not path.exists():
        path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(spec.stem for spec in SPECS.glob("*.yaml")))
        raise UserError(f"recipe {name_or_path}: neither shipped ({shipped}) nor a file")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: an experiment is a mapping of fields to values")
    return validated(Experiment, fields)

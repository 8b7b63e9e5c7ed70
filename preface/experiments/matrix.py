"""Columns × tasks: each cell is measured once, and kept as soon as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from preface.baselines.column import Column, Setting
from preface.errors import UserError
from preface.experiments.spec import Experiment, load_experiment
from preface.experiments.table import OWN_TASK
from preface.records.atomic import write_atomically
from preface.records.results import RESULTS, Cell, read_cells, write_cells
from preface.tasks import Task

SPEC = "experiment.yaml"


@dataclass(frozen=True)
class Unit:
    """A column on the tasks that it has no cells for: what is computed in one go, for its search, its seeds and its
    evaluations share what was read of the texts."""

    column: Column
    tasks: Sequence[Task]
    setting: Setting

    def __str__(self) -> str:
        return f"{self.column.label} on {', '.join(task.name for task in self.tasks)}"

    def cells(self) -> Iterator[list[Cell]]:
        """The cells of one task after another, as they are measured. Raises UserError."""
        for measured in self.column.cells(self.setting, self.tasks):
            yield [labelled(cell, self.column) for cell in measured]


Compute = Callable[[Sequence[Unit]], Iterator[tuple[Unit, list[Cell]]]]
"""Gives cells with their unit as they are measured, in any order."""


def in_turn(units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Cell]]]:
    """One unit after the other, in this process."""
    for unit in units:
        for cells in unit.cells():
            yield unit, cells


def measure(experiment: Experiment, setting: Setting, compute: Compute = in_turn) -> list[Cell]:
    """All cells of the experiment, in the order of its tasks, then of its columns; those in its folder are taken from
    there.

    Raises UserError for whatever can be known to be wrong before anything is trained: a slip should not cost an hour.
    """
    check(experiment, setting)
    claim(setting.folder, experiment)
    parts = [(part, setting.part(name)) for name, part in experiment.parts().items()]
    for part, own in parts:
        claim(own.folder, part)
    matrices = {own.folder: Matrix(part, own) for part, own in parts or [(experiment, setting)]}
    for unit, cells in compute([unit for matrix in matrices.values() for unit in matrix.missing()]):
        matrices[unit.setting.folder].keep(cells)
        if parts:
            write_cells(setting.folder / RESULTS, _each_by_itself(matrices.values()))
    if not parts:
        return matrices[setting.folder].in_order()
    cells = _each_by_itself(matrices.values())
    write_cells(setting.folder / RESULTS, cells)
    return cells


class Matrix:
    """The cells of an experiment that trains on one task, and the file that keeps them."""

    def __init__(self, experiment: Experiment, setting: Setting) -> None:
        self.setting, self.tasks = setting, eval_tasks(experiment, setting)
        self.columns = {column.label: column for column in experiment.expanded()}
        self.cells = read_cells(setting.folder / RESULTS)

    def missing(self) -> Iterator[Unit]:
        """What is still to be measured."""
        for label, column in self.columns.items():
            done = {cell.eval_task for cell in self.cells if cell.method == label}
            if missing := [task for task in self.tasks if task.name not in done]:
                yield Unit(column, missing, self.setting)

    def keep(self, cells: Sequence[Cell]) -> None:
        """Write cells beside the others, in the order of the columns, whichever is done first."""
        places = {label: place for place, label in enumerate(self.columns)}
        self.cells = sorted([*self.cells, *cells], key=lambda cell: places[cell.method])
        write_cells(self.setting.folder / RESULTS, self.cells)

    def in_order(self) -> list[Cell]:
        """In the order of the tasks, then of the columns."""
        rows = {task.name: place for place, task in enumerate(self.tasks)}
        return sorted(self.cells, key=lambda cell: rows[cell.eval_task])


def _each_by_itself(matrices: Iterable[Matrix]) -> list[Cell]:
    """The cells of tasks that are trained on by themselves, together."""
    cells = [cell for matrix in matrices for cell in matrix.in_order()]
    return [replace(cell, details=cell.details | {OWN_TASK: True}) for cell in cells]


def check(experiment: Experiment, setting: Setting) -> None:
    """Raise UserError for whatever can be known to be wrong before anything is trained."""
    for name, part in experiment.parts().items():
        check(part, setting.part(name))
    tasks = eval_tasks(experiment, setting)
    check_names(trained_tasks(experiment, setting), tasks)
    for task in tasks:
        setting.split(task, "test")
    if experiment.train_task is not None:
        for column in experiment.expanded():
            column.check(setting, tasks)


def trained_tasks(experiment: Experiment, setting: Setting) -> list[Task]:
    """The tasks that are trained on, those of a mixture each by itself."""
    tasks = [setting.task(name) for name in experiment.train_tasks()]
    return [one for task in tasks for one in task.mixture or (task,)]


def check_names(trained: Sequence[Task], tasks: Sequence[Task]) -> None:
    """Raise UserError where two files have one name, by which tables and folders know them."""
    for task in trained:
        for other in [*trained, *tasks]:
            if other.name == task.name and other.source != task.source:
                raise UserError(f"{task.name}: two files have this name; copy one of them under another")


def eval_tasks(experiment: Experiment, setting: Setting) -> list[Task]:
    """The tasks to evaluate on. A data file may hold the words of the labels, or the labels of the file trained on."""
    trained = None if experiment.train_task is None else setting.task(experiment.train_task)
    tasks = [setting.task(name, trained) for name in experiment.eval_tasks]
    repeated = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if repeated:
        raise UserError(f"eval-tasks: {repeated[0]} is named twice; each row of the table needs a name of its own")
    return tasks


def claim(folder: Path, experiment: Experiment) -> None:
    """Write down whose folder it is. Raises UserError if it is another experiment's, or nobody knows whose."""
    spec = folder / SPEC
    if spec.exists() and not same(spec, experiment):
        raise UserError(f"{folder}: holds another experiment (see {spec}); give another --out, or remove the folder")
    if not spec.exists() and (folder / RESULTS).exists():
        raise UserError(f"{folder}: holds results, but no {SPEC} that says of what; give another --out")
    fields = experiment.model_dump(mode="json")
    write_atomically(spec, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def same(spec: Path, experiment: Experiment) -> bool:
    """Whether the file describes this experiment; one that is not understood, as of an older version, does not."""
    try:
        return load_experiment(spec).measured() == experiment.measured()
    except UserError:
        return False


def labelled(cell: Cell, column: Column) -> Cell:
    """The cell as the report knows it: under the column's name, with the values of its axes."""
    axes = {"column": column.base, "varied": column.varied} if column.varied else {}
    return replace(cell, method=column.label, details=cell.details | axes)

"""Columns × tasks: each cell is measured once, and kept as soon as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import yaml

from preface.baselines.column import Column, Setting
from preface.errors import UserError
from preface.experiments.spec import Experiment, load_experiment
from preface.experiments.table import OWN_TASK
from preface.records.atomic import write_atomically
from preface.records.results import Cell, read_cells, write_cells
from preface.tasks import Task

SPEC, RESULTS = "experiment.yaml", "results.json"


def measure(experiment: Experiment, setting: Setting) -> list[Cell]:
    """All cells of the experiment, in the order of its tasks, then of its columns; those in its folder are taken from
    there.

    Raises UserError for whatever can be known to be wrong before anything is trained: a slip should not cost an hour.
    """
    check(experiment, setting)
    claim(setting.folder, experiment)
    if not (parts := experiment.parts()):
        return _measured(experiment, setting)
    cells: list[Cell] = []
    for name, part in parts.items():
        measured = measure(part, setting.part(name))
        cells += [replace(cell, details=cell.details | {OWN_TASK: True}) for cell in measured]
        write_cells(setting.folder / RESULTS, cells)
    return cells


def check(experiment: Experiment, setting: Setting) -> None:
    """Raise UserError for whatever can be known to be wrong before anything is trained."""
    for name, part in experiment.parts().items():
        check(part, setting.part(name))
    tasks = eval_tasks(experiment, setting)
    for task in tasks:
        setting.split(task, "test")
    if experiment.train_task is not None:
        for column in experiment.expanded():
            column.check(setting, tasks)


def _measured(experiment: Experiment, setting: Setting) -> list[Cell]:
    """The cells of an experiment that trains on one task."""
    columns, tasks = experiment.expanded(), eval_tasks(experiment, setting)
    cells = read_cells(setting.folder / RESULTS)
    for column in columns:
        done = {cell.eval_task for cell in cells if cell.method == column.label}
        if missing := [task for task in tasks if task.name not in done]:
            for measured in column.cells(setting, missing):
                cells += [labelled(cell, column) for cell in measured]
                write_cells(setting.folder / RESULTS, cells)
    places = {column.label: place for place, column in enumerate(columns)}
    rows = {task.name: place for place, task in enumerate(tasks)}
    return sorted(cells, key=lambda cell: (rows[cell.eval_task], places[cell.method]))


def eval_tasks(experiment: Experiment, setting: Setting) -> list[Task]:
    """The tasks to evaluate on. A data file may hold the words of the labels, or the labels of the file trained on."""
    trained = None if experiment.train_task is None else setting.task(experiment.train_task)
    tasks = [setting.task(name, trained) for name in experiment.eval_tasks]
    repeated = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if repeated:
        raise UserError(f"eval-tasks: {repeated[0]} is named twice; each row of the table needs a name of its own")
    return tasks


def claim(folder: Path, experiment: Experiment) -> None:
    """Write down whose folder it is. Raises UserError if it is another experiment's."""
    spec = folder / SPEC
    if spec.exists() and not same(spec, experiment):
        raise UserError(f"{folder}: holds another experiment (see {spec}); give another --out, or remove it")
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

"""The verb: prompts trained on one domain and tested on others, beside what a user would pick instead."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from preface.backbones.base import Backbone
from preface.baselines.column import Setting
from preface.experiments.domains import distances
from preface.experiments.matrix import Compute, eval_tasks, in_turn, measure, trained_tasks
from preface.experiments.notes import notes_of
from preface.experiments.report import write_report
from preface.experiments.spec import Experiment, load_experiment
from preface.records.results import Cell
from preface.tasks.metric import majority_of
from preface.terminal.command import command_line
from preface.terminal.progress import warn


def compare_cross_domain(
    recipe: Experiment | str | Path = "nano",
    *,
    out: str | Path,
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    compute: Compute = in_turn,
    **changes: Any,
) -> list[Cell]:
    """Measure every column of an experiment on every task, and write table, plot, report and `results.json` into `out`.

    Cells already in `out` are not measured again, and an interrupted training goes on where it stopped: the same
    call continues the experiment.

    Args:
        recipe: an experiment, a shipped one's name, or a YAML.
        out: the experiment's folder.
        backbone: takes the place of the experiment's; a loaded one is used as it is.
        dtype, device: of backbones that are loaded here.
        compute: where columns are computed: one after the other in this process, or by
            `preface.cluster.compare.on_cluster`.
        changes: `task`, `on`, `seeds`, `steps`, `train_rows` take the place of what the experiment says, and so do the
            fields of `preface.tasks.options.DataOptions`: `data`, `input`, `label`, …

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    experiment = recipe if isinstance(recipe, Experiment) else load_experiment(recipe)
    loaded, name = (backbone, backbone.name) if isinstance(backbone, Backbone) else (None, backbone)
    experiment = experiment.changed(backbone=name, **changes)
    setting = Setting(Path(out), experiment.data, dtype, device, loaded)
    for line in (known := known_rows(experiment, setting)):
        warn(line)  # before hours of work
    cells = measure(experiment, setting, compute)
    notes = [*experiment.notes, *known, majorities(experiment, setting), *notes_of(cells)]
    if experiment.distances:
        notes += distances(experiment, setting)
    commands = [shlex.join(words)] if (words := command_line()) else []
    write_report(cells, Path(out), experiment.title, notes=notes, commands=commands)
    return cells


def known_rows(experiment: Experiment, setting: Setting) -> list[str]:
    """A line for each data file whose rows are all tested on, those that were trained on among them."""
    sources = [task.source for task in trained_tasks(experiment, setting)]
    return [
        f"{task.name}: all of its rows are its test, those trained on among them, so its scores say little; give other "
        "rows with --test."
        for task in eval_tasks(experiment, setting)
        if not task.splits["test"].apart and task.source in sources
    ]


def majorities(experiment: Experiment, setting: Setting) -> str:
    """What a constant answer would score, by each task's own metric: a number below it is no achievement."""
    shares = []
    for task in eval_tasks(experiment, setting):
        score = majority_of(task.metric, setting.split(task, "test").examples)
        shares.append(f"{task.name} {100 * score:.1f}")
    return f"Always naming the commonest answer would score: {', '.join(shares)}."

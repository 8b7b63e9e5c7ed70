"""Train soft prompts on a task: what is configured, what is read, and the run that comes of it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from preface.backbones.base import Backbone
from preface.backbones.load import dtype_name
from preface.errors import UserError
from preface.labelling.fit import loaded
from preface.labelling.free_text import wanted
from preface.methods import Method, PrefixTuning, method_named
from preface.options import divided, validated
from preface.records.card import MethodRecord
from preface.records.lock import locked
from preface.records.results import installed_versions
from preface.records.run import RECORD, Run, RunRecord, SplitRecord, Splits, now
from preface.tasks import Split, Task
from preface.tasks.options import DataOptions
from preface.tuning.finish import finish
from preface.tuning.loop import Loop
from preface.tuning.population import Population
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.rows import Rows


def train(
    backbone: Backbone | str | None = None,
    task: Task | str | Path | None = None,
    method: Method | str | None = None,
    *,
    train_rows: int | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> Run:
    """Train prompts on a task and keep the best by development score.

    Args:
        backbone: a loaded backbone, or a name or folder for `load_backbone` (default: the embedded one).
        task: a shipped task's name, a YAML, or a data file (`preface.tasks.read.SUFFIXES`).
        method: a method, or its name. Default: a prefix of 20 at all three attention sites.
        train_rows: train on so many rows, sampled with a fixed seed.
        out: the run's folder (default: `runs/TASK-METHOD-TIME`).
        resume: the folder of an interrupted run: goes on where that stopped, and takes all else from there; where
            things lie now may be given (`backbone`, `device`, `data`), and must hold the same.
        dtype, device: as for `load_backbone`.
        options: fields of `preface.tuning.recipe.Recipe` (`learning_rates`, `seeds`, `steps`, …) and of
            `preface.tasks.options.DataOptions` (`input`, `label`, `label_words`, `data`, …).

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; `resume` goes on.
    """
    recipe, data = divided(options, Recipe, DataOptions)
    if resume is not None:
        given = {"task": task, "method": method, "train_rows": train_rows, "out": out}
        _refuse([name for name, value in given.items() if value is not None] + [n for n in options if n != "data"])
        return _go_on(Path(resume), backbone, dtype, device, data.get("data"))
    if task is None:
        raise UserError("task: none given; `preface tasks` lists those that ship, or give a data file")
    if train_rows is not None and train_rows < 1:
        raise UserError(f"train-rows: at least 1 (got {train_rows})")
    the_data = validated(DataOptions, data)
    the_task = the_data.task(task)
    the_method = validated(method_named(method), {}) if isinstance(method, str) else method or PrefixTuning()
    the_recipe = recipe_from(recipe, the_method.rates)
    folder = Path(out) if out else Path("runs") / _run_name(the_task, the_method)
    _check_free(folder)
    the_backbone = loaded(backbone, dtype, device)
    return _begin(folder, _Training(the_backbone, the_task, the_method, the_recipe, the_data, train_rows))


@dataclass(frozen=True)
class _Training:
    """What is trained, and on what."""

    backbone: Backbone
    task: Task
    method: Method
    recipe: Recipe
    data: DataOptions
    train_rows: int | None

    def read(self) -> tuple[Split, Split]:
        """The rows to train on, and the development split."""
        training = self.data.split(self.task, "train", self.train_rows)
        return training, self.data.split(self.task, "validation")

    def population(self, training: Split, development: Split) -> Population:
        """What can be wrong with the method shows here."""
        asked = wanted(self.backbone, self.task)
        rows = Rows.of(self.backbone, asked, training, development, self.recipe.max_input_tokens, self.task.cue)
        return Population(self.backbone, self.method, self.recipe, rows, self.task.metric)

    def record(self, recipe: Recipe, splits: Splits) -> RunRecord:
        """`recipe`: with its steps as numbers."""
        backbone, data = self.backbone, self.data.data
        return RunRecord(
            backbone=backbone.name,
            revision=backbone.revision,
            dtype=dtype_name(backbone.dtype),
            fingerprint=backbone.fingerprint,
            shape=backbone.sizes,
            backbone_saw=backbone.seen_tasks,
            task=self.task,
            method=MethodRecord(name=self.method.name, config=self.method.model_dump(mode="json")),
            recipe=recipe.model_dump(mode="json"),
            data=None if data is None else data.resolve(),
            skip_bad_rows=self.data.skip_bad_rows,
            train_rows=self.train_rows,
            splits=splits,
            label_words=self.task.label_words,
            versions=installed_versions(),
            device=str(backbone.device),
            threads=torch.get_num_threads(),
            started=now().isoformat(timespec="seconds"),
            command=tuple(sys.argv),
        )


def _begin(folder: Path, work: _Training) -> Run:
    training, development = work.read()
    population = work.population(training, development)  # before there is a folder that would claim the name
    with locked(folder):
        _check_free(folder)
        record = work.record(population.recipe, _splits(training, development))
        record.write(folder)
        _run(folder, population, record)
    return Run(folder, work.backbone)


def _run(folder: Path, population: Population, record: RunRecord) -> None:
    """Train to the end, and write what comes of it."""
    loop = Loop(folder, population, population.budget, f"preface train --resume {shlex.quote(str(folder))}")
    finish(folder, record, population.outcome(loop.run()))


def _go_on(folder: Path, backbone: Backbone | str | None, dtype: str, device: str, data: str | Path | None) -> Run:
    unfinished(folder)
    with locked(folder):
        record = unfinished(folder)  # as whoever was at work there has left it
        work = _recorded(folder, record, _same_backbone(folder, record, backbone, dtype, device), data)
        training, development = work.read()
        splits = _splits(training, development)
        for now_read, then in ((splits.train, record.splits.train), (splits.validation, record.splits.validation)):
            if not now_read.same_rows(then):
                raise UserError(f"{folder}: the data of {record.task.name} has changed since; start anew")
        _run(folder, work.population(training, development), record)
    return Run(folder, work.backbone)


def _recorded(folder: Path, record: RunRecord, backbone: Backbone, data: str | Path | None) -> _Training:
    """What a run's record says of its training; `data`: where the data lie now, if elsewhere."""
    try:
        method = validated(method_named(record.method.name), record.method.config)
        recipe = validated(Recipe, record.recipe)
    except UserError as error:
        raise UserError(f"{folder / RECORD}: damaged, or of another version ({error})") from error
    options = DataOptions(data=Path(data) if data else record.data, skip_bad_rows=record.skip_bad_rows)
    return _Training(backbone, record.task, method, recipe, options, record.train_rows)


def _same_backbone(
    folder: Path, record: RunRecord, backbone: Backbone | str | None, dtype: str, device: str
) -> Backbone:
    """The backbone that a run goes on with. Raises UserError if it is not, in every respect, the one it had."""
    if not isinstance(backbone, Backbone):
        dtype = record.dtype if dtype == "auto" else dtype
        device = record.device if device == "auto" else device
    found = loaded(record.backbone if backbone is None else backbone, dtype, device)
    kind = record.device.split(":")[0]
    for name, then, now_is in (("dtype", record.dtype, dtype_name(found.dtype)), ("device", kind, found.device.type)):
        if then != now_is:
            raise UserError(f"{name}: {folder} was begun in {then} and would not end the same in {now_is}; start anew")
    if record.fingerprint != found.fingerprint:
        raise UserError(f"{folder}: was begun with other weights of {record.backbone}; start anew")
    return found


def _refuse(names: list[str]) -> None:
    if names:
        listed = ", ".join(name.replace("_", "-") for name in names)
        raise UserError(f"resume: the task and all else come from the run; give no {listed}")


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out names the folder that the run will be in")
    if (folder / RECORD).exists():
        raise UserError(f"{folder}: a run is there already; `--resume {folder}` goes on with it, or give another --out")


def unfinished(folder: Path) -> RunRecord:
    """How an interrupted run was configured. Raises UserError if there is none in the folder, or a finished one."""
    if not (folder / RECORD).exists():
        raise UserError(f"{folder}: nothing to resume (no {RECORD} there)")
    record = RunRecord.read(folder)
    if record.result is not None:
        raise UserError(f"{folder}: finished already; `preface evaluate {folder}` uses it")
    return record


def _splits(training: Split, development: Split) -> Splits:
    return Splits(train=SplitRecord.of_split(training), validation=SplitRecord.of_split(development))


def _run_name(task: Task, method: Method) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in task.name)
    return f"{plain}-{method.name}-{now():%Y%m%d-%H%M%S}"

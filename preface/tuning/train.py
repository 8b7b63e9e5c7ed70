"""Train soft prompts on a task: what is configured, what is read, and the run that comes of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from preface.backbones.base import Backbone
from preface.backbones.load import dtype_name
from preface.backbones.quantized import split_name
from preface.errors import UserError
from preface.labelling.free_text import wanted
from preface.labelling.wording import with_best_wording
from preface.methods import Method, PrefixTuning, method_named
from preface.methods.multitask_prompt_tuning import MultitaskPromptTuning
from preface.options import divided, validated
from preface.records.card import origin_of, plain
from preface.records.metrics import METRICS
from preface.records.results import installed_versions
from preface.records.run import RECORD, Run, RunRecord, SplitRecord, Splits, now
from preface.records.trackers import Trackers, tracker_names
from preface.tasks import Split, Task
from preface.tasks.metric import metric_title
from preface.tasks.options import DataOptions
from preface.tasks.split import check_limits, few, labelled, sampled
from preface.terminal.command import command_line
from preface.terminal.progress import say
from preface.tuning.finish import Outcome, finish
from preface.tuning.folds import FOLDS, Chosen, CrossValidation, OnAllRows
from preface.tuning.loop import CHECKPOINTS, Loop, OnLine
from preface.tuning.multitask import Multitask, TaskRows
from preface.tuning.population import Population
from preface.tuning.processes import Processes
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.rows import Rows

TAKEN = ("prompt.json", "prompt", METRICS, CHECKPOINTS)
"""By one of these a folder without a run is known to hold something else, which the run's files would mix with: a
prompt, an ensemble, a backbone."""


def train(
    backbone: Backbone | str | None = None,
    task: Task | str | Path | None = None,
    method: Method | str | None = None,
    *,
    train_rows: int | None = None,
    shots: int | None = None,
    draw: int = 0,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    track: str | Sequence[str] | None = None,
    spread: str | None = None,
    **options: Any,
) -> Run:
    """Train prompts on a task and keep the best by development score.

    Args:
        backbone: a loaded backbone, or a name or folder for `load_backbone` (default: `default_backbone`).
        task: a shipped task's name, a YAML, a data file (`preface.tasks.read.SUFFIXES`), or several, `sst2+trec`.
        method: a method, or its name. Default: a prefix of 20 at the backbone's usual sites.
        train_rows: train on so many rows, of a mixture on so many of each task, sampled with a fixed seed.
        shots: train on so many rows of each label, drawn by the seed `draw`.
        out: the run's folder (default: `runs/TASK-METHOD-TIME`).
        resume: the folder of an interrupted run: goes on where that stopped, and takes all else from there; where
            things lie now may be given (`backbone`, `device`, `data`), and must hold the same.
        dtype, device: as for `load_backbone`.
        track: trackers of accelerate that show it beside the run's folder: `tensorboard`, `wandb`, `mlflow`, ….
        spread: what processes that were started together (`torchrun`, `accelerate launch`) and all make this call share
            out: `rows` of each batch, `members` of the population, or rows and the backbone's `weights`; `auto`:
            members where they come out even, else rows. None: this process trains alone, whoever was started with it.
        options: fields of `preface.tuning.recipe.Recipe` (`learning_rates`, `seeds`, `steps`, …) and of
            `preface.tasks.options.DataOptions` (`input`, `label`, `label_words`, `data`, …).

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; `resume` goes on.
    """
    recipe, data = divided(options, Recipe, DataOptions)
    if resume is not None:
        given = {"task": task, "method": method, "train_rows": train_rows, "shots": shots, "out": out, "track": track}
        _refuse([name for name, value in given.items() if value is not None] + [n for n in options if n != "data"])
        return _go_on(Path(resume), backbone, dtype, device, data.get("data"), spread)
    if task is None:
        raise UserError("task: none given; `preface tasks` lists those that ship, or give a data file")
    for name, number in (("train-rows", train_rows), ("shots", shots)):
        if number is not None and number < 1:
            raise UserError(f"{name}: at least 1 (got {number})")
    check_limits(train_rows, shots)
    if draw and shots is None:
        raise UserError(f"draw {draw}: is of shots, rows of each label; give shots, or leave it out")
    trackers = tracker_names(track)
    the_data = validated(DataOptions, data)
    the_task = the_data.task(task)
    the_method = validated(method_named(method), {}) if isinstance(method, str) else method or PrefixTuning()
    the_recipe = recipe_from(recipe, the_method.default_rates)
    processes = Processes.here(device, spread)
    folder = Path(out) if out else processes.agreed(Path("runs") / _run_name(the_task, the_method))
    _check_free(folder)
    the_backbone = processes.load(backbone, dtype, device)
    limits = _Limits(train_rows, shots, draw)
    work = _Training(the_backbone, the_task, the_method, the_recipe, the_data, limits, processes)
    return _begin(folder, work, trackers)


@dataclass(frozen=True)
class _Limits:
    """How many rows are trained on."""

    train_rows: int | None
    shots: int | None
    draw: int

    def of(self, rows: Split) -> Split:
        """As many of these."""
        if self.train_rows is not None:
            return sampled(rows, self.train_rows)
        return rows if self.shots is None else few(rows, self.shots, self.draw)


@dataclass(frozen=True)
class _Training:
    """What is trained, and on what."""

    backbone: Backbone
    task: Task
    method: Method
    recipe: Recipe
    data: DataOptions
    limits: _Limits
    processes: Processes

    def read(self) -> tuple[Split, Split]:
        """The rows to train on, and the development split; with folds, all labelled rows are both."""
        split = partial(self.data.split, self.task)
        if self.recipe.folds is None:
            return self.limits.of(split("train")), split("validation")
        rows = self.limits.of(labelled(self.task, split))
        return rows, replace(rows, split="validation")

    def worded(self, development: Split) -> _Training:
        """With the wording that does best without a prompt, where the task asks for that."""
        task = with_best_wording(self.backbone, self.task, development.examples, self.recipe.max_input_tokens)
        return replace(self, task=task)

    def rows(self, training: Split, development: Split) -> Rows:
        task, most = self.task, self.recipe.max_input_tokens
        asked = wanted(self.backbone, task)
        rows = Rows.of(self.backbone, asked, training, development, most, task.cue, task.wording)
        if isinstance(self.method, MultitaskPromptTuning) and task.mixture:
            if self.limits.shots is not None or self.recipe.folds is not None:
                raise UserError(f"{task.name}: a prompt for each task takes neither shots nor folds; give train-rows")
            return TaskRows.of_mixture(self.backbone, rows, self.task, training, development)
        return rows

    def first(self, rows: Rows) -> Population:
        """What is trained first; what can be wrong with the method shows here."""
        if isinstance(rows, TaskRows):
            return Multitask(self.backbone, self.method, self.recipe, rows, self.task.metric, self.processes)
        kind = Population if self.recipe.folds is None else CrossValidation
        return kind(self.backbone, self.method, self.recipe, rows, self.task.metric, self.processes)

    def second(self, rows: Rows, chosen: Chosen) -> Population:
        """What is trained on all rows, once folds have chosen."""
        return OnAllRows(self.backbone, self.method, self.recipe, rows, self.task.metric, chosen, self.processes)

    def record(self, splits: Splits, track: tuple[str, ...]) -> RunRecord:
        """Once the recipe has its steps as numbers."""
        backbone, data = self.backbone, self.data.data
        return RunRecord(
            **origin_of(backbone, self.method.record, self.task),
            dtype=dtype_name(backbone.dtype),
            backbone_saw=backbone.seen_tasks,
            recipe=self.recipe.model_dump(mode="json"),
            data=None if data is None else data.resolve(),
            skip_bad_rows=self.data.skip_bad_rows,
            train_rows=self.limits.train_rows,
            shots=self.limits.shots,
            draw=self.limits.draw,
            track=track,
            splits=splits,
            versions=installed_versions(),
            device=str(backbone.device),
            threads=torch.get_num_threads(),
            started=now().isoformat(timespec="seconds"),
            command=command_line(),
        )


def _begin(folder: Path, work: _Training, track: tuple[str, ...]) -> Run:
    training, development = work.read()
    work = work.worded(development)
    rows = work.rows(training, development)
    work = replace(work, recipe=work.recipe.resolve(rows.steps_an_epoch(work.recipe)))
    population = work.first(rows)  # before there is a folder that would claim the name
    is_main = work.processes.is_main
    work.processes.wait()  # until all have seen that the folder is free
    with work.processes.locked(folder):
        record = work.record(_splits(training, development), track)
        if is_main:
            _check_free(folder)
        with Trackers.start(track if is_main else (), folder, record) as trackers:
            if is_main:
                record.write(folder)
            _run(folder, work, rows, population, record, trackers)
    return Run(folder, work.backbone)


def _run(
    folder: Path, work: _Training, rows: Rows, population: Population, record: RunRecord, trackers: Trackers
) -> None:
    """Train to the end, and write what comes of it."""
    again = f"preface train --resume {shlex.quote(str(folder))}"
    work.processes.wait()
    outcome = trained(folder, population, partial(work.second, rows), again, trackers)
    if work.processes.is_main:
        finish(folder, record, outcome)
        trackers.finish(Run(folder).result)
    work.processes.wait()


def trained(
    folder: Path,
    population: Population,
    second: Callable[[Chosen], Population],
    again: str,
    trackers: Trackers | None = None,
) -> Outcome:
    """A population at its end; `second`: what is trained on all rows once folds have chosen, where it is in folds.

    Checkpoints and `metrics.jsonl` are written into the folder; `again` is the command that goes on from there.
    """
    trackers, before = trackers or Trackers(), 0
    if isinstance(population, CrossValidation):
        before = int(population.budget.total)
        population = second(_cross_validated(folder, population, again, trackers))
    on_line = partial(trackers.log, population.names, before)
    return population.outcome(_loop(folder, population, again, on_line).run())


def _loop(folder: Path, population: Population, again: str, on_line: OnLine) -> Loop:
    return Loop(folder, population, population.budget, again, processes=population.processes, on_line=on_line)


def _cross_validated(folder: Path, population: CrossValidation, again: str, trackers: Trackers) -> Chosen:
    """What the folds chose, in a folder of their own; found there when it is done already."""
    if (done := Chosen.read(folder)) is not None:
        return done
    if population.processes.is_main:
        (folder / FOLDS).mkdir(exist_ok=True)
    on_line = partial(trackers.log, population.names, 0)
    seconds = _loop(folder / FOLDS, population, again, on_line).run().seconds
    if population.chosen is None:
        raise UserError("folds: every learning rate diverged; try lower ones")
    chosen = replace(population.chosen, seconds=seconds)
    say(
        f"{population.recipe.folds} folds: rate {chosen.learning_rate:g} for {chosen.steps} steps did best "
        f"({metric_title(population.metric)} {chosen.score:.3f} on rows that were not trained on)"
    )
    if population.processes.is_main:
        chosen.write(folder)
    return chosen


def _go_on(
    folder: Path, backbone: Backbone | str | None, dtype: str, device: str, data: str | Path | None, spread: str | None
) -> Run:
    began_on = unfinished(folder).device
    processes = Processes.here(began_on.split(":")[0] if device == "auto" else device, spread)
    with processes.locked(folder):
        processes.wait()
        record = unfinished(folder)  # as whoever was at work there has left it
        the_backbone = _same_backbone(folder, record, backbone, dtype, device, processes)
        work = _recorded(folder, record, the_backbone, data, processes)
        training, development = work.read()
        splits = _splits(training, development)
        for now_read, then in ((splits.train, record.splits.train), (splits.validation, record.splits.validation)):
            if not now_read.same_rows(then):
                raise UserError(f"{folder}: the data of {record.task.name} has changed since; start anew")
        rows = work.rows(training, development)
        track = record.track if processes.is_main else ()
        with Trackers.start(track, folder, record, resumed=True) as trackers:
            _run(folder, work, rows, work.first(rows), record, trackers)
    return Run(folder, work.backbone)


def _recorded(
    folder: Path, record: RunRecord, backbone: Backbone, data: str | Path | None, processes: Processes
) -> _Training:
    """What a run's record says of its training; `data`: where the data lie now, if elsewhere."""
    try:
        method = validated(method_named(record.method.name), record.method.config)
        recipe = validated(Recipe, record.recipe)
    except UserError as error:
        raise UserError(f"{folder / RECORD}: damaged, or of another version ({error})") from error
    options = DataOptions(data=Path(data) if data else record.data, skip_bad_rows=record.skip_bad_rows)
    limits = _Limits(record.train_rows, record.shots, record.draw)
    return _Training(backbone, record.task, method, recipe, options, limits, processes)


def _same_backbone(
    folder: Path, record: RunRecord, backbone: Backbone | str | None, dtype: str, device: str, processes: Processes
) -> Backbone:
    """The backbone that a run goes on with. Raises UserError if it is not, in every respect, the one it had."""
    if not isinstance(backbone, Backbone):
        dtype = record.dtype if dtype == "auto" else dtype
        device = record.device if device == "auto" else device
    held = split_name(record.backbone)[1]
    found = processes.load(record.backbone if backbone is None else backbone, dtype, device)
    kind = record.device.split(":")[0]
    for name, then, now_is in (
        ("dtype", record.dtype, dtype_name(found.dtype)),
        ("quantize", held or "plain weights", found.quantized or "plain weights"),
        ("device", kind, found.device.type),
    ):
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
    if taken := next((name for name in TAKEN if (folder / name).exists()), None):
        raise UserError(f"{folder}: holds something else already (its {taken}); give another --out")


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
    return f"{plain(task.name)}-{method.name}-{now():%Y%m%d-%H%M%S}"

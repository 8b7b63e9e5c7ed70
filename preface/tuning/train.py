"""Train soft prompts on a task: what was asked, what is read, and the run that comes of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from preface.backbones.base import Backbone
from preface.backbones.load import DEFAULT, load_backbone
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.methods import Method, PrefixTuning, method_named
from preface.records.results import installed_versions
from preface.records.run import RECORD, Run, now, write_record
from preface.tasks import Split, Task, load_split, load_task
from preface.tuning.population import Population
from preface.tuning.recipe import Recipe, recipe_from, validated


def train(
    backbone: Backbone | str = DEFAULT,
    task: Task | str | Path | None = None,
    method: Method | str | None = None,
    *,
    input: str | None = None,
    label: str | None = None,
    label_words: Mapping[str, str] | None = None,
    encoding: str | None = None,
    data: str | Path | None = None,
    skip_bad_rows: bool = False,
    train_rows: int | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    **recipe: Any,
) -> Run:
    """Train prompts on a task and keep the best by development score.

    Args:
        backbone: a loaded backbone, or a name or folder for `load_backbone`.
        task: a shipped task's name, a YAML, or a data file (CSV, TSV, JSON Lines, Parquet).
        method: a method, or its name. Default: a prefix of 20 at all three attention sites.
        input, label, label_words, encoding: a data file's fields, the word of each label (default: the labels as they
            are), and its encoding (default: UTF-8).
        data: folder with the data files of shipped tasks (default: the environment's PREFACE_DATA).
        skip_bad_rows: leave rows out that cannot be read, and count them, instead of stopping.
        train_rows: train on so many rows, sampled with a fixed seed.
        out: the run's folder (default: `runs/TASK-METHOD-TIME`).
        resume: the folder of an interrupted run: goes on where that stopped, all else is taken from there.
        recipe: fields of `preface.tuning.recipe.Recipe`: `learning_rates`, `seeds`, `steps`, …

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; `resume` goes on.
    """
    if resume is not None:
        asked = unfinished(Path(resume))
        folder = Path(resume)
        backbone = (
            load_backbone(asked["backbone"], asked["dtype"], asked["device"]) if isinstance(backbone, str) else backbone
        )
        the_task = Task.model_validate(asked["task"])
        the_method = method_named(asked["method"]["name"])(**asked["method"]["config"])
        the_recipe = Recipe(**asked["recipe"])
        data, skip_bad_rows, train_rows = data or asked["data"], asked["skip_bad_rows"], asked["train_rows"]
    else:
        if task is None:
            raise UserError("task: none given; `preface tasks` lists those that ship, or give a data file")
        backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
        the_task = load_task(task, input=input, label=label, label_words=label_words, encoding=encoding)
        the_method = validated(method_named(method), {}) if isinstance(method, str) else method or PrefixTuning()
        the_recipe = recipe_from(recipe, the_method.rates)
        folder = Path(out) if out else Path("runs") / _run_name(the_task, the_method)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; --out names the folder that the run will be in")
        if (folder / RECORD).exists():
            raise UserError(
                f"{folder}: a run is there already; `--resume {folder}` goes on with it, or give another --out"
            )

    training = load_training(the_task, data, skip_bad_rows, train_rows)
    development = load_split(the_task, "validation", data=data, skip_bad_rows=skip_bad_rows)
    labels = LabelWords.of(backbone, the_task.label_words)
    # what can be wrong with the method shows here, before there is a folder that would claim the name
    population = Population(folder, backbone, the_method, the_recipe, labels, training, development, the_task.metric)
    if resume is None:
        asked = {
            "backbone": backbone.name,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "fingerprint": backbone.fingerprint,
            "shape": backbone.sizes,
            "backbone_saw": list(backbone.seen_tasks),
            "task": the_task.model_dump(mode="json"),
            "method": {"name": the_method.name, "config": the_method.model_dump(mode="json")},
            "recipe": population.recipe.model_dump(mode="json"),
            "data": None if data is None else str(Path(data).resolve()),
            "skip_bad_rows": skip_bad_rows,
            "train_rows": train_rows,
            "splits": {split.split: _split_record(split) for split in (training, development)},
            "label_words": labels.words,
            "versions": installed_versions(),
            "device": str(backbone.device),
            "threads": torch.get_num_threads(),
            "started": now().isoformat(timespec="seconds"),
            "command": sys.argv,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, asked)
    elif asked["fingerprint"] != backbone.fingerprint:
        raise UserError(f"{folder}: was begun with other weights of {asked['backbone']}; start anew")
    elif any(_content(asked["splits"][s.split]) != _content(_split_record(s)) for s in (training, development)):
        raise UserError(f"{folder}: the data of {the_task.name} has changed since; start anew")
    population.run(asked)
    return Run(folder, backbone)


def load_training(
    task: Task, data: str | Path | None = None, skip_bad_rows: bool = False, rows: int | None = None
) -> Split:
    """The training split, or `rows` of it, sampled with a fixed seed."""
    if rows is not None and rows < 1:
        raise UserError(f"train-rows: at least 1 (got {rows})")
    split = load_split(task, "train", data=data, skip_bad_rows=skip_bad_rows)
    if rows is None or rows >= len(split.examples):
        return split
    return replace(split, examples=random.Random(0).sample(split.examples, rows))


def unfinished(folder: Path) -> dict[str, Any]:
    """What an interrupted run was asked for. Raises UserError if there is none in the folder, or a finished one."""
    if not (folder / RECORD).exists():
        raise UserError(f"{folder}: nothing to resume (no {RECORD} there)")
    record = Run(folder).record
    if "result" in record:
        raise UserError(f"{folder}: finished already; `preface evaluate {folder}` uses it")
    return record


def _split_record(split: Split) -> dict[str, Any]:
    return {
        "rows": len(split.examples),
        "skipped": list(split.skipped),
        "sources": [asdict(source) for source in split.sources],
    }


def _content(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a split was read from, wherever the files lie now."""
    return record["rows"], [(source["sha256"], source["revision"], source["rows"]) for source in record["sources"]]


def _run_name(task: Task, method: Method) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in task.name)
    return f"{plain}-{method.name}-{now():%Y%m%d-%H%M%S}"

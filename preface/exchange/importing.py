"""Read a prompt of another program, and write it as a prompt's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.exchange.base import Foreign
from preface.exchange.numpy import SUFFIX, read_numpy
from preface.exchange.peft import read_peft
from preface.labelling.fit import loaded
from preface.labelling.free_text import wanted
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.prompts import Prompts
from preface.records.card import (
    MethodRecord,
    PromptCard,
    SavedPrompt,
    folder_of_task,
    load_prompt,
    origin_of,
    save_prompt,
)
from preface.records.results import installed_versions
from preface.tasks import Task, load_task
from preface.tasks.task import BEST


def import_prompt(
    path: str | Path,
    task: str | Path | Task,
    out: str | Path,
    *,
    task_number: int | None = None,
    max_input_tokens: int | None = None,
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> SavedPrompt:
    """Make a prompt's folder, which `predict`, `evaluate` and `serve` take, of another program's prompt.

    Args:
        path: a folder that PEFT saved, or a `.npy` file `[length, d]`.
        task: what the prompt is for, which other programs do not say. Of a multitask prompt of T tasks a mixture of
            as many, in their order.
        out: the folder to write.
        task_number: of a multitask prompt, from 0: the one to take, alone.
        max_input_tokens: longer inputs are cut (default: 512).
        backbone: default: the one that PEFT's folder names.
        dtype, device: as for `load_backbone`.
        options: fields of `preface.tasks.load.FileOptions`, as for `load_task`.

    Raises:
        UserError: it cannot be read, does not fit its backbone or its task, or something lies at `out`.
    """
    path, folder = Path(path), Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give another --out")
    limit = MAX_INPUT_TOKENS if max_input_tokens is None else max_input_tokens
    if limit < 2:
        raise UserError(f"max-input-tokens {limit}: at least 2")
    the_task = load_task(task, **options)
    if the_task.wording == BEST:
        raise UserError("wording best: is chosen in training; give the one that the prompt was trained under")

    def load(own: str | None) -> Backbone:
        if not (name := backbone or own):
            raise UserError(f"{path}: does not say which model its prompt is of; name it with --backbone")
        return loaded(name, dtype, device)

    foreign = read_peft(path, load) if path.is_dir() else read_numpy(_file(path), load)
    if task_number is not None:
        if task_number not in range(len(foreign.each)):
            of_tasks = f"prompts of {len(foreign.each)} tasks, from 0" if foreign.each else "a prompt of one task"
            raise UserError(f"task-number {task_number}: {path} has {of_tasks}")
        foreign = replace(foreign, tensors=foreign.each[task_number], each=())
    tasks = _each_task(path, the_task, len(foreign.each)) if foreign.each else ()
    for one in tasks or (the_task,):
        wanted(foreign.model, one)  # or nothing could be asked
    _check_finite(path, [foreign.tensors, *foreign.each])
    card = _card(foreign, path, the_task, limit)
    shared_by = tuple(one.name for one in tasks)
    save_prompt(folder, Prompts.one(foreign.tensors), card.model_copy(update={"shared_by": shared_by}))
    for one, tensors in zip(tasks, foreign.each, strict=True):
        about = {"task": one, "label_words": one.label_words}
        save_prompt(folder_of_task(folder, one.name), Prompts.one(tensors), card.model_copy(update=about))
    return load_prompt(folder)


def _file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: there is nothing; give a folder that PEFT saved, or a {SUFFIX} file")
    if path.suffix.lower() != SUFFIX:
        raise UserError(f"{path}: is neither a folder that PEFT saved nor a {SUFFIX} file")
    return path


def _each_task(path: Path, task: Task, count: int) -> tuple[Task, ...]:
    """The tasks that share a prompt."""
    if len(task.mixture) != count:
        raise UserError(
            f"{path}: has prompts of {count} tasks, and --task names {len(task.mixture) or 1}; give all in their "
            "order, as in --task sst2+trec, or one of them with --task-number, from 0"
        )
    return task.mixture


def _check_finite(path: Path, several: Iterable[Mapping[str, Tensor]]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensors in several for tensor in tensors.values()):
        raise UserError(f"{path}: holds values that are no finite numbers")


def _card(foreign: Foreign, path: Path, task: Task, max_input_tokens: int) -> PromptCard:
    sizes = [tensor.shape for tensor in foreign.tensors.values()]
    method = MethodRecord(name=foreign.method, config={"length": sizes[0][-2], "imported": str(path)})
    return PromptCard(
        **origin_of(foreign.model, method, task),
        max_input_tokens=max_input_tokens,
        trained_parameters=sum(size.numel() for size in sizes),
        member=None,
        versions=installed_versions(),
    )

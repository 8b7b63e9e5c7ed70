"""How data are found and read: the options that every verb which reads a task or a data file takes."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field

from preface.errors import UserError
from preface.tasks.load import FileOptions, first_row, is_mixture, load_task
from preface.tasks.registry import is_yaml, registered, split_reference
from preface.tasks.split import Split, load_split, sampled
from preface.tasks.task import Task


class DataOptions(FileOptions):
    """Options of a user's own data file, which for a shipped task override what that says, and where data lie."""

    data: Path | None = Field(None, description="Folder with the data files of shipped tasks. Default: PREFACE_DATA.")
    skip_bad_rows: bool = Field(False, description="Leave out and count rows that cannot be read.")

    def task(self, spec: str | Path | Task) -> Task:
        """The task that `spec` names, with these options. Raises UserError as `load_task` does."""
        return load_task(spec, **{name: getattr(self, name) for name in FileOptions.model_fields})

    def eval_task(self, spec: str | Path | Task, trained: Task | None = None) -> Task:
        """A task to evaluate on: the options describe data files; other tasks know their own, and take only `cue`.

        Where the options do not say what a data file's labels are, they are those of the task that was trained on, as
        its data or its words; nor which fields it has, those of that task, where the file has them. Raises UserError
        for a wording.
        """
        if self.wording is not None:
            raise UserError("wording: a prompt reads under the one that it was trained under, and knows it")
        base = split_reference(str(spec))[0]
        if isinstance(spec, Task) or base in registered() or is_yaml(base) or is_mixture(base):
            return load_task(spec, cue=self.cue)
        if trained is None:
            return self.task(spec)
        several = self.multi_label or trained.multi_label
        update: dict[str, Any] = {"free_text": trained.free_text, "multi_label": several}
        if self.label_words is None and not trained.free_text:
            update["label_words"] = {**{word: word for word in trained.label_words}, **trained.labels}
        if os.path.isfile(spec):
            update |= self._fields_as_trained(trained, first_row(Path(spec), self.encoding or "utf-8"))
        return self.model_copy(update=update).task(spec)

    def _fields_as_trained(self, trained: Task, there: Collection[str]) -> dict[str, Any]:
        """The fields of text and label that a file has as the task trained on had them, unless others are named."""
        found: dict[str, Any] = {}
        if self.input is None and self.template is None and {*trained.text_fields} <= {*there}:
            found |= {"input": trained.fields.input, "template": trained.template}
        if self.label is None and trained.fields.label in there:
            found["label"] = trained.fields.label
        return found

    def split(self, task: Task, split: str, rows: int | None = None) -> Split:
        """A split of the task, or `rows` of it, sampled with a fixed seed. Raises UserError as `load_split` does."""
        whole = load_split(task, split, data=self.data, skip_bad_rows=self.skip_bad_rows)
        return whole if rows is None else sampled(whole, rows)

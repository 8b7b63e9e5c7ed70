"""How data are found and read: the options that every verb which reads a task or a data file takes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from preface.tasks.load import load_task
from preface.tasks.split import Split, load_split
from preface.tasks.task import Task


class DataOptions(BaseModel):
    """Options of a user's own data file, which for a shipped task override what that says, and where data lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: tuple[str, ...] | None = Field(None, description="The field, or fields, of a data file with the text.")
    label: str | None = Field(None, description="A data file's field with the label.")
    label_words: dict[str, str | None] | None = Field(
        None, description="Words of the labels: `0=negative 1=positive`. Default: the labels as they are."
    )
    template: str | None = Field(None, description="The text of an example: `{premise} … {hypothesis}`.")
    validation: Path | None = Field(None, description="A data file's development rows. Default: a tenth is held out.")
    test: Path | None = Field(None, description="A data file's test rows. Default: all rows of the data file.")
    encoding: str | None = Field(None, description="Of a data file. Default: UTF-8.")
    data: Path | None = Field(None, description="Folder with the data files of shipped tasks. Default: PREFACE_DATA.")
    skip_bad_rows: bool = Field(False, description="Leave out and count rows that cannot be read.")

    @field_validator("input", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def task(self, spec: str | Path | Task) -> Task:
        """The task that `spec` names, with these options. Raises UserError as `load_task` does."""
        own = {"input", "label", "label_words", "encoding", "template", "validation", "test"}
        return load_task(spec, **{name: getattr(self, name) for name in own})

    def split(self, task: Task, split: str, rows: int | None = None) -> Split:
        """A split of the task, or `rows` of it, sampled with a fixed seed. Raises UserError as `load_split` does."""
        whole = load_split(task, split, data=self.data, skip_bad_rows=self.skip_bad_rows)
        if rows is None or rows >= len(whole.examples):
            return whole
        return replace(whole, examples=random.Random(0).sample(whole.examples, rows))

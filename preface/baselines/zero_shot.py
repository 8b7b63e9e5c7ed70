"""The frozen model alone, given an instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from preface.backbones.base import Backbone
from preface.baselines.column import Column, Setting
from preface.labelling.evaluate import evaluate
from preface.labelling.options import Calibration
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.labelling.wording import ROWS, Wording, best_wording
from preface.records.results import Cell
from preface.tasks import Task
from preface.tasks.task import Instruction


class ZeroShot(Column):
    """Label words ranked by their probability after an instruction."""

    kind: ClassVar[str] = "zero-shot"
    backbone: str
    train_task: str
    """Whose development rows choose the wording, where none is given."""
    instruction: Instruction | None = None
    calibration: Calibration = "none"
    """What is taken out of the scores; `batch` looks at the test texts."""
    rows: int = Field(ROWS, ge=1)
    """Development rows, at most, that wordings are compared on."""

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        if self.instruction is None:
            setting.split(setting.task(self.train_task), "validation")

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        data, backbone = setting.data, setting.backbone(self.backbone)
        wording = Wording(self.instruction) if self.instruction is not None else self._best(setting, backbone)
        for task in tasks:
            cells = evaluate(
                None,
                [task],
                backbone=backbone,
                instruction=wording.instruction,
                calibration=self.calibration,
                data=data.data,
                skip_bad_rows=data.skip_bad_rows,
            )
            yield [replace(cell, details=cell.details | {"instruction_chosen_on": wording.chosen_on}) for cell in cells]

    def _best(self, setting: Setting, backbone: Backbone) -> Wording:
        task = setting.task(self.train_task)
        rows = setting.split(task, "validation").examples
        return best_wording(backbone, task, rows, MAX_INPUT_TOKENS, self.rows, self.calibration)

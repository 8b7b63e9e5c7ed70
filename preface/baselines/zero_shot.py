"""The frozen model alone, given an instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from preface.baselines.column import Column, Setting
from preface.labelling.evaluate import evaluate
from preface.labelling.options import INSTRUCTION
from preface.records.results import Cell
from preface.tasks import Task


class ZeroShot(Column):
    """Label words ranked by their probability after an instruction."""

    kind: ClassVar[str] = "zero-shot"
    backbone: str
    instruction: str = INSTRUCTION

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        data, backbone = setting.data, setting.backbone(self.backbone)
        for task in tasks:
            yield evaluate(
                None,
                [task],
                backbone=backbone,
                instruction=self.instruction,
                data=data.data,
                skip_bad_rows=data.skip_bad_rows,
            )

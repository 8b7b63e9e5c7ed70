"""The frozen model alone, given an instruction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from preface.backbones.base import Backbone
from preface.baselines.column import Column, Setting, each_seed
from preface.labelling.evaluate import evaluate
from preface.labelling.options import Calibration
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.labelling.wording import ROWS, Wording, best_wording
from preface.records.results import DRAWN, Cell
from preface.tasks import Task
from preface.tasks.task import Instruction


class ZeroShot(Column):
    """Label words ranked by their probability after an instruction."""

    kind: ClassVar[str] = "zero-shot"
    backbone: str
    train_task: str
    """Whose rows choose the wording, where none is given."""
    instruction: Instruction | None = None
    calibration: Calibration = "none"
    """What is taken out of the scores; `batch` looks at the test texts."""
    rows: int = Field(ROWS, ge=1)
    """Development rows, at most, that wordings are compared on."""
    seeds: int | tuple[int, ...] = 3
    """Of draws of `shots`."""
    shots: int | None = Field(None, ge=1)
    """Rows of each label, drawn anew by each seed, that wordings are compared on; None: development rows, once."""
    max_input_tokens: int | None = Field(None, ge=2)
    """None: as long as where a recipe says nothing of it."""

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        given = {"rows", "seeds", "shots"} if fields.get("instruction") is not None else set()  # nothing is chosen then
        return super().accepts(fields) - given

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        if self.instruction is not None:
            return
        task = setting.task(self.train_task)
        if self.shots is None:
            setting.split(task, "validation")
        else:
            setting.drawn(task, self.shots, 0)

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        backbone = setting.backbone(self.backbone)
        wordings = self._wordings(setting, backbone)
        for task in tasks:
            yield [
                _of_draw(cell, seed, wording)
                for seed, wording in wordings.items()
                for cell in self._asked(setting, backbone, task, wording.instruction)
            ]

    def _wordings(self, setting: Setting, backbone: Backbone) -> dict[int | None, Wording]:
        """By the seed of the draw that chose it; None: of none."""
        if self.instruction is not None:
            return {None: Wording(self.instruction)}
        task = setting.task(self.train_task)
        rows = (
            {None: setting.split(task, "validation").examples}
            if self.shots is None
            else {seed: setting.drawn(task, self.shots, seed).examples for seed in each_seed(self.seeds)}
        )
        most = self.max_input_tokens or MAX_INPUT_TOKENS
        return {
            seed: best_wording(backbone, task, some, most, self.rows, self.calibration) for seed, some in rows.items()
        }

    def _asked(self, setting: Setting, backbone: Backbone, task: Task, instruction: Instruction) -> list[Cell]:
        """One wording on one task, which is asked once, however many draws and columns have chosen it."""
        data = setting.data
        return setting.once(
            (self.kind, self.backbone, task.model_dump_json(), instruction, self.calibration, self.max_input_tokens),
            lambda: evaluate(
                None,
                [task],
                backbone=backbone,
                instruction=instruction,
                calibration=self.calibration,
                max_input_tokens=self.max_input_tokens,
                data=data.data,
                skip_bad_rows=data.skip_bad_rows,
            ),
        )


def _of_draw(cell: Cell, seed: int | None, wording: Wording) -> Cell:
    """A cell, with how its wording was chosen; where a draw chose it, it is none of the settings, by which columns are
    told apart."""
    details = cell.details | {"instruction_chosen_on": wording.chosen_on}
    if seed is not None:
        details[DRAWN] = details.pop("instruction")
    return replace(cell, seed=seed, details=details)

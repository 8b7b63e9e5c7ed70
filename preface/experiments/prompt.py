"""The column of soft prompts: a method trained on a task by a recipe, after a search for its learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from preface.backbones.base import Backbone
from preface.baselines.column import ByRecipe, Setting
from preface.errors import UserError
from preface.labelling.evaluate import evaluate
from preface.methods import METHODS, Method, method_named
from preface.options import validated
from preface.records.results import Cell
from preface.records.run import RECORD, Run
from preface.tasks import Task, load_task
from preface.terminal.progress import say
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.train import train


class Prompt(ByRecipe):
    """A method, with what differs from its defaults. Fields of the method and of `Recipe` are given beside the others:
    `{method: prefix-tuning, length: 5, learning_rates: [0.01]}`."""

    kind: ClassVar[str] = "prompt"
    multi_label: ClassVar[bool] = True
    method: Method
    cue: str | None = Field(None, min_length=1)
    """In place of the task's own, as `sentinel`."""
    wording: str | None = Field(None, min_length=1)
    """In place of the task's own, as `best`."""

    @property
    def base(self) -> str:
        return self.name or self.method.name

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        if "method" not in fields:
            raise UserError(f"method: none given; one of {', '.join(METHODS)}")
        method = method_named(str(fields["method"]))
        return super().accepts(fields) | {*method.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Each field to whom it belongs: the method, the recipe, or the column."""
        chosen = method_named(str(fields["method"]))
        method = validated(chosen, {name: fields[name] for name in chosen.model_fields if name in fields})
        recipe = {name: fields[name] for name in Recipe.model_fields if name in fields}
        own = {name: value for name, value in fields.items() if name not in {*chosen.model_fields, *recipe}}
        return own | {"method": method, "recipe": recipe_from(recipe, method.default_rates)}

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        data, backbone = setting.data, setting.backbone(self.backbone)
        if self.shots is None:
            run = self.run(setting, backbone)
            for task in tasks:
                yield evaluate(run, [task], backbone=backbone, data=data.data, skip_bad_rows=data.skip_bad_rows)
            return
        runs = {seed: self._drawn(setting, backbone, seed) for seed in self.recipe.seeds}
        for task in tasks:
            cells = []
            for seed, run in runs.items():
                (cell,) = evaluate(run, [task], backbone=backbone, data=data.data, skip_bad_rows=data.skip_bad_rows)
                settings = {name: value for name, value in cell.details.items() if name != "learning_rate"}
                cells.append(replace(cell, seed=seed, details=settings))  # of each draw its own rate
            yield cells

    def _drawn(self, setting: Setting, backbone: Backbone, draw: int) -> Run:
        """A prompt trained on the rows of a draw, at the rate and for the steps that its own folds choose."""
        one = self.recipe.model_copy(update={"seeds": (draw,)})
        folder = setting.folder / "train" / self.folder_name / f"draw{draw}"
        return self._train(setting, backbone, folder, one, shots=self.shots, draw=draw)

    def run(self, setting: Setting, backbone: Backbone) -> Run:
        """The long training, after the search for its rate; what is there of either is used, or gone on with."""
        recipe = self.recipe
        if self.search is not None and recipe.folds is None and len(recipe.learning_rates) > 1:
            folder = setting.folder / "search" / self.folder_name
            search = self._train(setting, backbone, folder, self.search.shortened(recipe))
            rate = search.best_rate[0].learning_rate
            recipe = recipe.model_copy(update={"learning_rates": (rate,)})
            say(f"{self.label}: learning rate {rate:g} did best on the development split")
        return self._train(setting, backbone, setting.folder / "train" / self.folder_name, recipe)

    def _train(self, setting: Setting, backbone: Backbone, folder: Path, recipe: Recipe, **limits: Any) -> Run:
        if (folder / RECORD).exists():
            run = Run(folder, backbone)
            return run if run.record.result is not None else train(backbone, resume=folder, data=setting.data.data)
        return train(
            backbone,
            load_task(setting.task(self.train_task), cue=self.cue, wording=self.wording),
            self.method,
            data=setting.data.data,
            skip_bad_rows=setting.data.skip_bad_rows,
            train_rows=self.train_rows,
            out=folder,
            **limits,
            **recipe.model_dump(),
        )

"""Tuning weights instead of prompts: all of them, biases, adapters, LoRA, IA3."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from preface.backbones.load import load_checkpoint
from preface.backbones.quantized import split_name
from preface.baselines.column import UNFIT, ByRecipe, Setting
from preface.errors import UserError
from preface.labelling.evaluate import with_predictions
from preface.labelling.free_text import FreeText, wanted
from preface.labelling.label_words import LabelWords
from preface.records.atomic import DamagedError, read_folder, remove, write_folder
from preface.records.lock import locked
from preface.records.record import Record
from preface.records.results import STORED, Cell, installed_versions
from preface.records.run import at_best_rate
from preface.tasks import Split, Task, render
from preface.tasks.task import BEST
from preface.terminal.progress import progress, say
from preface.tuning.folds import FOLDS, Chosen
from preface.tuning.loop import CHECKPOINTS, Loop
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.rows import Rows
from preface.tuning.tunable import NAMES, OF_PEFT, RATES, Tuning, check_peft, in_mixed_precision, make_tunable
from preface.tuning.tuned import Tuned, predictions
from preface.tuning.tuned_folds import OnAllRows, cross_validated

FROZEN_ONLY = ("gradient_checkpointing", "cuda_graphs")
"""Fields of a recipe that are for prompts alone."""
WEIGHTS = "weights"
"""The folder of tuned weights, and the name of its files."""
CHECKPOINT_SECONDS = 600.0
"""A checkpoint of full tuning is four times the model."""


class Outcome(Record):
    """What one training gave; the tuned weights lie beside it."""

    learning_rate: float
    seed: int
    score: float
    """The best on the development rows."""
    loss: float
    step: int
    """Of that evaluation."""
    seconds: float
    trained_parameters: int
    recipe: dict[str, Any]
    versions: dict[str, str]


class Weights(ByRecipe):
    """A model of its own for each seed, trained by the recipe of the prompts; its weights are in float32, and it
    multiplies in the precision of the backbone."""

    kind: ClassVar[str] = "weights"
    tuning: Tuning
    rank: int = Field(8, ge=1)
    """Of LoRA."""
    width: int = Field(64, ge=1)
    """Of adapters."""

    @property
    def base(self) -> str:
        return self.name or NAMES[self.tuning]

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        return super().accepts(fields) - {*FROZEN_ONLY}

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields of the recipe to the recipe."""
        tuning = fields.get("tuning")
        for name, of in (("rank", "lora"), ("width", "adapters")):
            if name in fields and tuning != of:
                raise ValueError(f"{name}: is of {of}, not of {tuning}")
        # what is wrong with the tuning shows later; rates of an optimizer's own are for prompts
        usual = next((rates for name, rates in RATES.items() if name == tuning), (1e-4,))
        recipe = {"learning_rates": usual} | {name: fields[name] for name in Recipe.model_fields if name in fields}
        if wrong := next((name for name in FROZEN_ONLY if recipe.get(name)), None):
            raise ValueError(f"{wrong}: is for prompts alone")
        own = {name: value for name, value in fields.items() if name not in recipe}
        return own | {"recipe": recipe_from(recipe, usual)}

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        super().check(setting, tasks)
        if self.recipe.folds is not None and self.shots is None:
            raise UserError(f"{self.label}: folds of tuned weights go with shots; give shots, or leave folds out")
        name, quantized = split_name(self.backbone)
        if quantized is not None:
            raise UserError(f"{self.label}: weights are tuned as they are; give the backbone {name}")
        if setting.task(self.train_task).wording == BEST:
            raise UserError(f"{self.label}: the wording best is of the bare model; give one in words")
        if self.tuning in OF_PEFT:
            check_peft(self.tuning)

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        outcomes = self.outcomes(setting)
        model, parameters = self._tunable(setting, outcomes[0].seed)  # all that a seed decides is tuned, and replaced
        for task in tasks:
            yield [self._measured(setting, task, outcome, model, parameters) for outcome in outcomes]

    def outcomes(self, setting: Setting) -> list[Outcome]:
        """The long trainings, one a seed, after the search for their rate; what is there of either is used."""
        recipe, rates = self.recipe, self.recipe.learning_rates
        if self.shots is not None:
            return [self._drawn(setting, draw) for draw in recipe.seeds]
        if self.search is not None and len(rates) > 1:
            short = self.search.shortened(recipe)
            tried = [self._train(setting, "search", short, rate, seed) for rate in rates for seed in short.seeds]
            rates = (at_best_rate(tried)[0].learning_rate,)
            say(f"{self.label}: learning rate {rates[0]:g} did best on the development split")
        found = [self._train(setting, "train", recipe, rate, seed) for rate in rates for seed in recipe.seeds]
        return at_best_rate(found)

    def _train(self, setting: Setting, part: str, recipe: Recipe, rate: float, seed: int) -> Outcome:
        folder = self._folder(setting, part, rate, seed)
        if (folder / WEIGHTS).exists():
            return _outcome(folder)
        rows = self._rows(setting, self.split(setting, "train"), self.split(setting, "validation"))
        title, metric = f"{self.label} · {rate:g} · seed {seed}", setting.task(self.train_task).metric
        tuned = Tuned(title, *self._tunable(setting, seed), rows, recipe.alone(rate, seed), metric)
        return self._run(setting, folder, tuned)

    def _drawn(self, setting: Setting, draw: int) -> Outcome:
        """Tuned on the rows of a draw, at the rate and for the steps that its own folds choose."""
        assert self.shots is not None
        task, title = setting.task(self.train_task), f"{self.label} · draw {draw}"
        folder = self._folder(setting, "train", 0.0, draw)
        if (folder / WEIGHTS).exists():
            return _outcome(folder)
        drawn, tunable = setting.drawn(task, self.shots, draw), partial(self._tunable, setting, draw)
        rows = self._rows(setting, drawn, replace(drawn, split="validation"))
        if (by := Chosen.read(folder)) is None:
            recipe = self.recipe.model_copy(update={"seeds": (draw,)})
            by = cross_validated(title, tunable, rows, recipe, task.metric, folder / FOLDS)
            by.write(folder)
        one = self.recipe.alone(by.learning_rate, draw)
        return self._run(setting, folder, OnAllRows(title, *tunable(), rows, one, task.metric, by), by.seconds)

    def _rows(self, setting: Setting, training: Split, development: Split) -> Rows:
        task, pieces = setting.task(self.train_task), setting.backbone(self.backbone)
        most = self.recipe.max_input_tokens
        return Rows.of(pieces, wanted(pieces, task), training, development, most, task.cue, task.wording)

    def _run(self, setting: Setting, folder: Path, tuned: Tuned, before: float = 0.0) -> Outcome:
        """Train to the end, and keep the best weights in the folder; `before`: seconds that led to it."""
        with locked(folder):
            again = f"preface compare … --out {shlex.quote(str(setting.folder))}"
            at = Loop(folder, tuned, tuned.budget, again, checkpoint_seconds=CHECKPOINT_SECONDS).run()
            best, recipe = tuned.best, tuned.recipe
            if not math.isfinite(best.loss):
                raise UserError(f"{tuned.title}: diverged before it was ever scored; give lower rates")
            outcome = Outcome(
                learning_rate=recipe.learning_rates[0],
                seed=recipe.seeds[0],
                score=best.score,
                loss=best.loss,
                step=best.step,
                seconds=before + at.seconds,
                trained_parameters=sum(parameter.numel() for parameter in tuned.parameters.values()),
                recipe=recipe.model_dump(mode="json"),
                versions=installed_versions(),
            )
            write_folder(folder / WEIGHTS, WEIGHTS, tuned.kept, outcome.as_json())
            remove(folder / CHECKPOINTS)
        return outcome

    def _folder(self, setting: Setting, part: str, rate: float, seed: int) -> Path:
        name = f"lr{rate:g}-seed{seed}" if self.shots is None else f"draw{seed}"  # which has a rate of its own
        return setting.folder / part / self.folder_name / name

    def _tunable(self, setting: Setting, seed: int) -> tuple[Any, dict[str, Any]]:
        model, _ = load_checkpoint(self.backbone, torch.float32)
        backbone = setting.backbone(self.backbone)
        model.to(backbone.device)  # type: ignore[arg-type]
        if backbone.dtype == torch.bfloat16:
            in_mixed_precision(model)
        return make_tunable(model, self.tuning, self.rank, self.width, seed)

    @torch.no_grad()
    def _measured(self, setting: Setting, task: Task, outcome: Outcome, model: Any, parameters: dict[str, Any]) -> Cell:
        folder = self._folder(setting, "train", outcome.learning_rate, outcome.seed)
        for name, tensor in _read(folder)[0].items():
            parameters[name].copy_(tensor)
        trained_on, pieces = setting.task(self.train_task), setting.backbone(self.backbone)
        words = trained_on.words_for(task)
        cue, examples = trained_on.cue, setting.split(task, "test").examples
        asked = LabelWords.of(pieces, words, cue) if words else FreeText(pieces, cue, task.answer_pieces)
        question = pieces.question(trained_on.wording, cue)
        texts, cut = render(pieces.tokenize, examples, self.recipe.max_input_tokens, question)
        began = time.perf_counter()
        with progress(f"{task.name} · {self.label}", len(texts), "rows") as advance:
            given = predictions(model.eval(), texts, asked, advance)
        cell = self.cell(
            task,
            examples,
            [prediction.label for prediction in given],
            words=words,
            trained_on=trained_on.name,
            seconds=time.perf_counter() - began,
            backbone=pieces,
            seed=outcome.seed,
            trained_parameters=outcome.trained_parameters,
            details={
                **({"learning_rate": outcome.learning_rate} if self.shots is None else {}),
                "development_score": outcome.score,
                "train_seconds": outcome.seconds,
                "members": 1,
                STORED: (folder / WEIGHTS / f"{WEIGHTS}.safetensors").stat().st_size,
                "cut_inputs": sum(cut),
                **({"scoring": "generate"} if task.free_text else {}),
            },
        )
        path = folder / "evaluations" / f"{re.sub(UNFIT, '-', task.name)}-test.jsonl"
        return with_predictions(cell, path, examples, given)


def _outcome(folder: Path) -> Outcome:
    return Outcome.of(_read(folder)[1], folder / WEIGHTS / f"{WEIGHTS}.json")


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tuned weights by name, and what is said of them. Raises UserError if they are damaged."""
    try:
        return read_folder(folder / WEIGHTS, WEIGHTS)
    except DamagedError as error:
        raise UserError(f"{error}; remove {folder} to train again") from error

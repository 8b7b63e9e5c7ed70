"""Weights tuned without a development split: folds choose the rate and the number of steps, as for prompts
(`preface.tuning.folds`), but each rate and fold is a training of its own; then a model is tuned on all rows."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from preface.errors import UserError
from preface.labelling.labeller import Prediction
from preface.records.atomic import write_atomically
from preface.terminal.progress import progress
from preface.tuning.folds import Chosen, apart_from, folds_of
from preface.tuning.loop import Position
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Judged, Rows
from preface.tuning.schedules import Budget
from preface.tuning.standing import Standing
from preface.tuning.tuned import Tuned

Tunable = Callable[[], tuple[Any, dict[str, Any]]]
"""Makes a model as it was before any tuning, and names those of its parameters that are tuned."""


def cross_validated(title: str, tunable: Tunable, rows: Rows, recipe: Recipe, metric: str, folder: Path) -> Chosen:
    """The rate and the number of steps that do best on rows which were not trained on.

    Args:
        folder: keeps what came of each rate and fold; those that are there are not trained again.
        rows: those held out are the training rows again; they have labels.
        recipe: with one seed, which deals the rows to folds, and some rates.
    """
    recipe = recipe.resolve(rows.steps_an_epoch(recipe))
    assert recipe.folds is not None
    assert recipe.steps is not None
    folds, rates = folds_of(rows.examples, rows.groups, recipe.folds, recipe.seeds[0]), recipe.learning_rates
    best: Chosen | None = None
    seconds = 0.0
    shown, total = f"{title}, {len(folds)} folds × {len(rates)} rates", len(folds) * len(rates) * recipe.steps
    with progress(shown, total, "steps") as advance:
        for rate in rates:
            said: dict[int, dict[int, Prediction]] = defaultdict(dict)  # by step, then by row
            losses: dict[int, float] = defaultdict(float)
            for number, fold in enumerate(folds):
                file = folder / f"lr{rate:g}-fold{number}.json"
                if (done := _Fold.read(file)) is None:
                    own = rows.trained_on(apart_from(fold, len(rows.examples))).held(fold)
                    done = _trained(Tuned(title, *tunable(), own, recipe.alone(rate, number), metric), advance)
                    done.write(file)
                else:
                    advance(recipe.steps)
                seconds += done.seconds
                for steps, found in done.judged:
                    said[steps] |= dict(zip(fold, found.predictions, strict=True))
                    losses[steps] += found.loss * len(fold) / len(rows.examples)
            for steps, loss in losses.items():
                predictions = [said[steps][place] for place in range(len(rows.examples))]
                score = rows.score(metric, [prediction.label for prediction in predictions])
                best = Chosen(rate, steps, score, loss, predictions).or_better(best)
    if best is None:
        raise UserError(f"{title}: every rate diverged; try lower ones")
    return replace(best, seconds=seconds)


@dataclass(frozen=True)
class _Fold:
    """What came of one rate and one fold."""

    judged: list[tuple[int, Judged]]
    """After so many steps, how the model did on the rows held out."""
    seconds: float

    @classmethod
    def read(cls, file: Path) -> _Fold | None:
        """None: it is not there. Raises UserError if it is damaged."""
        if not file.exists():
            return None
        try:
            return _FOLD.validate_json(file.read_bytes())
        except ValidationError as error:
            raise UserError(f"{file}: damaged; remove it to train this fold again") from error

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(self)) + "\n")


_FOLD = TypeAdapter(_Fold)


def _trained(tuned: Tuned, advance: Callable[..., None]) -> _Fold:
    """Train, and judge after every so many steps."""
    steps, every = tuned.recipe.steps, tuned.recipe.evaluate_every
    assert steps is not None
    assert every is not None
    judged, began = [], time.monotonic()
    for number in range(steps):
        tuned.step(number, number / steps)
        advance()
        if (number + 1) % every == 0 or number + 1 == steps:
            judged.append((number + 1, tuned.judged()))
    return _Fold(judged, time.monotonic() - began)


class OnAllRows(Tuned):
    """What a loop trains on all rows, for the steps that were chosen; nothing is left to score it on."""

    def __init__(
        self, title: str, model: Any, parameters: dict[str, Any], rows: Rows, recipe: Recipe, metric: str, by: Chosen
    ) -> None:
        """`recipe`: with one rate and one seed."""
        super().__init__(title, model, parameters, rows, recipe.model_copy(update={"evaluate_every": by.steps}), metric)
        self.budget, self.by = Budget(by.steps), by

    @property
    def standing(self) -> str:
        return ""

    def _evaluate(self, at: Position) -> Iterator[dict[str, Any]]:
        """At the end, keep what is there, unless it diverged; its score is the cross-validated one."""
        if at.steps == self.by.steps and self.best.active and math.isfinite(self.loss or 0.0):
            self.best = Standing(self.by.score, self.by.loss, at.steps)
            self._keep()
        return iter(())

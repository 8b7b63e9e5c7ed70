"""Weights tuned without a development split: folds choose the rate and the number of steps, as for prompts
(`preface.tuning.folds`), but each rate and fold is a training of its own; then a model is tuned on all rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from preface.errors import UserError
from preface.labelling.labeller import Prediction
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


def cross_validated(title: str, tunable: Tunable, rows: Rows, recipe: Recipe, metric: str) -> Chosen:
    """The rate and the number of steps that do best on rows which were not trained on.

    Args:
        rows: those held out are the training rows again; they have labels.
        recipe: with one seed, which deals the rows to folds, and some rates.
    """
    recipe = recipe.resolve(rows.steps_an_epoch(recipe))
    assert recipe.folds is not None
    assert recipe.steps is not None
    folds, rates = folds_of(rows.examples, rows.groups, recipe.folds, recipe.seeds[0]), recipe.learning_rates
    best: Chosen | None = None
    shown, total = f"{title}, {len(folds)} folds × {len(rates)} rates", len(folds) * len(rates) * recipe.steps
    with progress(shown, total, "steps") as advance:
        for rate in rates:
            said: dict[int, dict[int, Prediction]] = defaultdict(dict)  # by step, then by row
            losses: dict[int, float] = defaultdict(float)
            for number, fold in enumerate(folds):
                own = rows.trained_on(apart_from(fold, len(rows.examples))).held(fold)
                tuned = Tuned(title, *tunable(), own, recipe.alone(rate, number), metric)
                for steps, found in _judged(tuned, advance):
                    said[steps] |= dict(zip(fold, found.predictions, strict=True))
                    losses[steps] += found.loss * len(fold) / len(rows.examples)
            for steps, loss in losses.items():
                predictions = [said[steps][place] for place in range(len(rows.examples))]
                score = rows.score(metric, [prediction.label for prediction in predictions])
                best = Chosen(rate, steps, score, loss, predictions).or_better(best)
    if best is None:
        raise UserError(f"{title}: every rate diverged; try lower ones")
    return best


def _judged(tuned: Tuned, advance: Callable[..., None]) -> Iterator[tuple[int, Judged]]:
    """Train; after every so many steps, how many, and how the model does on the rows held out."""
    steps, every = tuned.recipe.steps, tuned.recipe.evaluate_every
    assert steps is not None
    assert every is not None
    for number in range(steps):
        tuned.step(number, number / steps)
        advance()
        if (number + 1) % every == 0 or number + 1 == steps:
            yield number + 1, tuned.judged()


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
        """At the end, keep what is there; its score is the cross-validated one."""
        if at.steps == self.by.steps:
            self.best = Standing(self.by.score, self.by.loss, at.steps)
            self._keep()
        return iter(())

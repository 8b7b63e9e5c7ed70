"""Training without a development split: cross-validation chooses the rate and the number of steps, as one population;
then a prompt is trained on all rows for so long.

Few labelled rows are too few to set some aside, and a choice made on the rows that were trained on is none (Perez et
al. 2021, "True few-shot learning with language models"). Folds × rates are members of one population, so that texts are
read once for all of them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.labeller import Prediction
from preface.methods import Method, PromptModule
from preface.prompts import Prompts
from preface.records.atomic import write_atomically
from preface.tasks.split import folded
from preface.tuning.finish import Outcome
from preface.tuning.loop import Position
from preface.tuning.population import Population
from preface.tuning.processes import Processes
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Rows
from preface.tuning.schedules import Budget

CHOSEN = "folds.json"
FOLDS = "folds"
"""The folder of cross-validation, in the run's."""


@dataclass(frozen=True)
class Chosen:
    """What cross-validation chose."""

    learning_rate: float
    steps: int
    score: float
    """Of all rows, each under a prompt that has not been trained on it."""
    loss: float
    predictions: list[Prediction]
    """Of these rows."""
    seconds: float = 0.0
    """That it took."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Chosen:
        """The inverse of `asdict`."""
        return cls(**fields | {"predictions": [Prediction(**row) for row in fields["predictions"]]})

    def or_better(self, best: Chosen | None) -> Chosen | None:
        """The better of the two, by score, then by loss; this one never if it diverged."""
        better = best is None or (self.score, -self.loss) > (best.score, -best.loss)
        return self if math.isfinite(self.loss) and better else best

    def write(self, folder: Path) -> None:
        write_atomically(folder / CHOSEN, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Chosen | None:
        """None: it is not done yet. Raises UserError if the file is damaged."""
        file = folder / CHOSEN
        if not file.exists():
            return None
        try:
            return cls.of(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: damaged ({error}); remove it to cross-validate again") from error


def folds_of(rows: Sequence[tuple[str, str]], groups: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Rows dealt to folds, each label in turn, so that labels are as even as can be; groups, and rows of the same text,
    stay together.

    Args:
        rows: text and label.
        groups: what belongs together; empty: what has the same text.

    Raises UserError where there are fewer to deal than folds.
    """
    together: dict[str, list[int]] = {}
    for place in range(len(rows)):
        together.setdefault(groups[place] if groups else folded(rows[place][0]), []).append(place)
    units = list(together.values())
    if len(units) < count:
        raise UserError(f"folds {count}: there are {len(units)} rows (or groups of rows) to deal; give fewer folds")
    random.Random(seed).shuffle(units)
    units.sort(key=lambda unit: rows[unit[0]][1])
    return [sorted(place for unit in units[fold::count] for place in unit) for fold in range(count)]


def apart_from(fold: Sequence[int], count: int) -> list[int]:
    """The rows, of so many, that are not in a fold."""
    return sorted({*range(count)} - {*fold})


class CrossValidation(Population):
    """A population of rates × folds: each is trained on all rows but its fold, and scored on these."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        recipe: Recipe,
        rows: Rows,
        metric: str,
        processes: Processes | None = None,
    ) -> None:
        """`rows`: those held out are the training rows again."""
        assert recipe.folds is not None
        self.folds = folds_of(rows.examples, rows.groups, recipe.folds, recipe.seeds[0])
        self.apart = [apart_from(fold, len(rows.examples)) for fold in self.folds]
        several = recipe.model_copy(update={"seeds": tuple(range(recipe.folds)), "patience": None})
        super().__init__(backbone, method, several, rows, metric, processes)
        self.title = f"{method.name}, {recipe.folds} folds × {len(recipe.learning_rates)} rates"
        self.chosen: Chosen | None = None

    def _built(self) -> PromptModule:
        """Each begins from the rows that it is trained on: those of its fold it has not seen."""
        module, members = super()._built(), self.recipe.members
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for fold, apart in enumerate(self.apart):
            alone = self._begun([self.rows.examples[place] for place in apart], [fold])
            own = {**dict(alone.named_parameters()), **dict(alone.named_buffers())}
            with torch.no_grad():
                for name, tensor in named.items():
                    for member in (index for index, (_, each) in enumerate(members) if each == fold):
                        tensor[member] = own[name][0]
        return module

    def _batches(self, number: int) -> list[list[int]]:
        if not self.orders:
            recipe, lengths = self.recipe, self.rows.lengths
            for _, fold in recipe.members:
                own = [lengths[place] for place in self.apart[fold]]
                size = None if recipe.batch_size is None else min(recipe.batch_size, len(own))
                self.orders.append(batching.endless(own, fold, size, recipe.token_budget, skip=number))
        members = zip(self.recipe.members, self.orders, strict=True)
        return [[self.apart[fold][place] for place in next(order)] for (_, fold), order in members]

    @property
    def names(self) -> list[str]:
        return [f"lr{rate:g}-fold{fold}" for rate, fold in self.recipe.members]

    @property
    def standing(self) -> str:
        return "" if self.chosen is None else f"cross-validated {self.chosen.score:.3f}"

    def _evaluate(self, at: Position) -> Iterator[dict[str, Any]]:
        """Score every rate on all rows, each under the member that has not seen it."""
        members = self.recipe.members
        judged = self._judged(self._prompts(), [self.folds[fold] for _, fold in members])
        for rate in self.recipe.learning_rates:
            said: dict[int, Prediction] = {}
            loss = 0.0
            for (own, fold), found in zip(members, judged, strict=True):
                if own == rate:
                    said |= dict(zip(self.folds[fold], found.predictions, strict=True))
                    loss += found.loss * len(self.folds[fold]) / len(self.rows.held_out)
            predictions = [said[place] for place in range(len(said))]
            score = self.rows.score(self.metric, [row.label for row in predictions])
            shown = loss if math.isfinite(loss) else None
            yield {
                "step": at.steps,
                "learning_rate": rate,
                "cross_validated_score": score,
                "cross_validated_loss": shown,
            }
            if at.steps:
                self.chosen = Chosen(rate, at.steps, score, loss, predictions).or_better(self.chosen)

    def _stop(self, member: int, why: str) -> None:
        """One that diverged stays: it is the rate that will not be chosen."""

    def record(self) -> dict[str, Any]:
        return super().record() | {"chosen": None if self.chosen is None else asdict(self.chosen)}

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        super().restore(tensors, record)
        if (chosen := record["chosen"]) is not None:
            self.chosen = Chosen.of(chosen)


class OnAllRows(Population):
    """Prompts trained on all rows, at the rate and for the steps that were chosen; nothing is left to score them on."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        recipe: Recipe,
        rows: Rows,
        metric: str,
        by: Chosen,
        processes: Processes | None = None,
    ) -> None:
        one = recipe.model_copy(update={"learning_rates": (by.learning_rate,)})
        super().__init__(backbone, method, one, rows, metric, processes)
        self.budget, self.evaluations, self.by = Budget(by.steps), [], by

    @property
    def standing(self) -> str:
        return ""

    def outcome(self, at: Position) -> Outcome:
        """As the prompts are; their score is the cross-validated one. Those that diverged stay at their beginning, with
        no score. Raises UserError if all have."""
        if not self.active:
            raise UserError("folds: every seed diverged when it was trained on all rows; try lower rates")
        self._hand_over(self.parameters)
        for member in self.active:
            state = self.states[member]
            state.score, state.loss, state.step = self.by.score, self.by.loss, at.steps
            for name, parameter in self.parameters.items():
                self.best[name][member] = parameter.detach()[member]
        outcome = super().outcome(at)
        return replace(outcome, seconds=outcome.seconds + self.by.seconds)

    def _predictions(self, prompts: Prompts, best: int) -> list[Prediction]:
        """Those of the folds: each row by a prompt that has not been trained on it."""
        return self.by.predictions

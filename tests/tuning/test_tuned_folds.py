"""Weights tuned on a few rows: folds choose, and each row is judged by a model that has not seen it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preface.backbones.load import load_backbone, load_checkpoint
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.tasks import load_split, load_task
from preface.tasks.split import few
from preface.tuning.folds import folds_of
from preface.tuning.loop import Loop
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Rows
from preface.tuning.tunable import make_tunable
from preface.tuning.tuned import Tuned, predictions
from preface.tuning.tuned_folds import Chosen, OnAllRows, cross_validated

TASK = load_task("film")
RECIPE = Recipe(
    folds=3, learning_rates=(1e-3, 1e-2), seeds=(5,), steps=4, evaluate_every=2, batch_size=4, patience=None
)


@pytest.fixture(scope="module")
def rows(checkpoint_folder: Path) -> Rows:
    """Six of each label; those held out are the same."""
    backbone = load_backbone(checkpoint_folder, dtype="float32", device="cpu")
    drawn = few(load_split(TASK, "train"), 6, 0)
    return Rows.of(backbone, LabelWords.of(backbone, TASK.label_words, TASK.cue), drawn, drawn, 64, TASK.cue)


@pytest.fixture
def tunable(checkpoint_folder: Path) -> Any:
    def made() -> tuple[Any, dict[str, Any]]:
        model, _ = load_checkpoint(str(checkpoint_folder), torch.float32)
        return make_tunable(model, "bitfit", 8, 64, 0)

    return made


def test_each_row_is_judged_by_a_model_that_has_not_seen_it(rows: Rows, tunable: Any, tmp_path: Path) -> None:
    chosen = cross_validated("few", tunable, rows, RECIPE, "accuracy", tmp_path / "folds")
    assert chosen.learning_rate in RECIPE.learning_rates
    assert chosen.steps in {2, 4}
    said: dict[int, str] = {}
    for number, fold in enumerate(folds_of(rows.examples, [], 3, 5)):
        apart = [place for place in range(12) if place not in fold]
        own = rows.trained_on(apart)
        assert not {rows.examples[place] for place in fold} & {*own.examples}
        tuned = Tuned("by hand", *tunable(), own, RECIPE.alone(chosen.learning_rate, number), "accuracy")
        for step in range(chosen.steps):
            tuned.step(step, 0.0)
        found = predictions(tuned.model, [rows.development[place] for place in fold], rows.labels)
        said |= {place: one.label for place, one in zip(fold, found, strict=True)}
    assert [said[place] for place in range(12)] == [prediction.label for prediction in chosen.predictions]
    right = [said[place] == answer for place, (_, answer) in enumerate(rows.examples)]
    assert chosen.score == pytest.approx(sum(right) / 12)


def test_folds_that_are_done_are_not_trained_again(rows: Rows, tunable: Any, tmp_path: Path) -> None:
    begun: list[int] = []

    def counted() -> tuple[Any, dict[str, Any]]:
        begun.append(1)
        if len(begun) == 5:
            raise KeyboardInterrupt
        return tunable()  # type: ignore[no-any-return]

    with pytest.raises(KeyboardInterrupt):
        cross_validated("few", counted, rows, RECIPE, "accuracy", tmp_path / "one")
    found = cross_validated("few", counted, rows, RECIPE, "accuracy", tmp_path / "one")
    assert len(begun) == 5 + 2  # four were done of two rates and three folds
    whole = cross_validated("few", tunable, rows, RECIPE, "accuracy", tmp_path / "other")
    assert replace(found, seconds=0.0) == replace(whole, seconds=0.0)
    assert found.seconds > 0
    (tmp_path / "one" / "lr0.001-fold0.json").write_text("[]")
    with pytest.raises(UserError, match="damaged; remove it"):
        cross_validated("few", tunable, rows, RECIPE, "accuracy", tmp_path / "one")


def test_all_rows_are_trained_on_for_the_steps_that_were_chosen(rows: Rows, tunable: Any, tmp_path: Path) -> None:
    """The rate falls as it did in the folds, over the steps of the recipe."""
    chosen = cross_validated("few", tunable, rows, RECIPE, "accuracy", tmp_path / "folds")
    one = RECIPE.alone(chosen.learning_rate, 5)
    ours = OnAllRows("few", *tunable(), rows, one, "accuracy", chosen)
    Loop(tmp_path, ours, ours.budget, "again").run()
    assert (ours.best.score, ours.best.step) == (chosen.score, chosen.steps)
    by_hand = Tuned("by hand", *tunable(), rows, one, "accuracy")
    for step in range(chosen.steps):
        by_hand.step(step, 0.0)
    for name, parameter in by_hand.parameters.items():
        assert torch.equal(ours.kept[name], parameter.detach())


def test_weights_that_diverge_on_all_rows_are_not_kept(rows: Rows, tunable: Any, tmp_path: Path) -> None:
    endless = RECIPE.model_copy(update={"learning_rates": (1e30,), "clip": None})
    chosen = Chosen(1e30, 4, 0.9, 0.3, [])
    tuned = OnAllRows("few", *tunable(), rows, endless.alone(1e30, 5), "accuracy", chosen)
    Loop(tmp_path, tuned, tuned.budget, "again").run()
    assert not math.isfinite(tuned.best.loss)  # as of one that was never scored


def test_rates_that_diverge(rows: Rows, tunable: Any, tmp_path: Path) -> None:
    endless = RECIPE.model_copy(update={"learning_rates": (1e30,), "clip": None})
    with pytest.raises(UserError, match="few: every rate diverged"):
        cross_validated("few", tunable, rows, endless, "accuracy", tmp_path)

"""Cross-validation in the place of a development split."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.records.run import Run
from preface.tasks import load_split
from preface.tasks.split import few
from preface.terminal.interrupt import Interrupted
from preface.tuning import folds
from preface.tuning.folds import folds_of

METHOD = PrefixTuning(length=2)
RECIPE: dict[str, Any] = {"learning_rates": [1e-3, 0.1], "steps": 6, "batch_size": 4, "evaluate_every": 2, "folds": 3}


@given(st.lists(st.sampled_from("abc"), min_size=6, max_size=40), st.integers(2, 6), st.integers(0, 3))
def test_folds_part_the_rows_and_are_even(labels: list[str], count: int, seed: int) -> None:
    dealt = folds_of([(str(i), label) for i, label in enumerate(labels)], [], count, seed)
    assert sorted(place for fold in dealt for place in fold) == list(range(len(labels)))
    sizes = [Counter(labels[place] for place in fold) for fold in dealt]
    for label in set(labels):
        counts = [size[label] for size in sizes]
        assert max(counts) - min(counts) <= 1  # as scikit-learn's StratifiedKFold has it
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_folds_are_as_even_as_scikit_learn_s() -> None:
    labels = ["a"] * 7 + ["b"] * 5 + ["c"] * 3
    theirs = [Counter(labels[i] for i in test) for _, test in StratifiedKFold(3).split(labels, labels)]
    ours = [
        Counter(labels[i] for i in fold)
        for fold in folds_of([(str(i), label) for i, label in enumerate(labels)], [], 3, 0)
    ]
    assert {label: sorted(c[label] for c in ours) for label in "abc"} == {
        label: sorted(c[label] for c in theirs) for label in "abc"
    }


def test_groups_are_dealt_whole_and_too_few_are_refused() -> None:
    groups = ["x", "y", "x", "z", "y", "z"]
    for fold in folds_of([("", "a")] * 6, groups, 3, 0):
        assert len({groups[place] for place in fold}) == 1
    with pytest.raises(UserError, match="folds 4: there are 3 rows"):
        folds_of([("", "a")] * 6, groups, 4, 0)


def test_the_same_text_is_in_one_fold() -> None:
    rows = [(text, "a") for text in ("One  text", "two", "one text", "three", "ONE text", "two ")]
    for fold in folds_of(rows, [], 3, 0):
        assert len({rows[place][0].lower().split()[0] for place in fold}) == 1


@pytest.fixture(scope="module")
def run(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("folds") / "run"
    return preface.train(nano, "film", METHOD, out=out, shots=6, draw=3, seeds=2, **RECIPE)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_best_rate_and_number_of_steps_are_chosen(run: Run) -> None:
    measured = [line for line in lines_of(run.folder / "folds") if "cross_validated_score" in line]
    assert [(line["step"], line["learning_rate"]) for line in measured] == [
        (step, rate) for step in (0, 2, 4, 6) for rate in (1e-3, 0.1)
    ]
    best = max(
        (line for line in measured if line["step"]),
        key=lambda line: (line["cross_validated_score"], -line["cross_validated_loss"]),
    )
    assert run.record.recipe["learning_rates"] == [1e-3, 0.1]
    assert [member.learning_rate for member in run.members] == [best["learning_rate"]] * 2
    assert [member.seed for member in run.members] == [0, 1]
    assert run.result.steps == best["step"]
    assert run.best.score == best["cross_validated_score"]
    said = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert len(said) == 12
    assert sum(row["label"] == row["gold"] for row in said) / 12 == pytest.approx(run.best.score)


def test_each_begins_from_rows_that_it_is_trained_on(nano: Backbone, tmp_path: Path, monkeypatch: Any) -> None:
    begun: list[tuple[list[str], list[int]]] = []
    begin = folds.CrossValidation._begun

    def watched(self: Any, examples: Any, seeds: Any) -> Any:
        module = begin(self, examples, seeds)
        begun.append(([text for text, _ in examples], list(seeds)))
        if len(seeds) > 1:
            self.everything = [text for text, _ in examples]
        else:
            (fold,) = seeds
            held_out = {self.everything[place] for place in self.folds[fold]}
            assert not held_out & {text for text, _ in examples}
        return module

    monkeypatch.setattr(folds.CrossValidation, "_begun", watched)
    preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=4, **RECIPE | {"steps": 1})
    assert [seeds for _, seeds in begun][-3:] == [[0], [1], [2]]


def test_a_seed_that_diverges_on_all_rows_is_not_the_best(nano: Backbone, tmp_path: Path, monkeypatch: Any) -> None:
    step = folds.OnAllRows.step

    def spoiled(self: Any, number: int, done: float) -> int:
        taken = step(self, number, done)
        for parameter in self.parameters.values():
            parameter.data[0] = float("nan")
        self._stop(0, "it was spoiled")
        return taken

    monkeypatch.setattr(folds.OnAllRows, "step", spoiled)
    run = preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=4, seeds=2, **RECIPE)
    assert run.result.best == 1
    assert all(run.prompt(index).prompts.tensors["cross.keys"].isfinite().all() for index in (0, 1))


def test_all_rows_are_drawn_from_what_is_no_test(run: Run) -> None:
    assert run.record.splits.train.rows == run.record.splits.validation.rows == 12
    assert (run.record.shots, run.record.draw) == (6, 3)
    assert not any("member" in line for line in lines_of(run.folder))  # nothing is left to score the prompts on


def test_nobody_is_judged_on_what_it_was_trained_on(nano: Backbone, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[tuple[Any, Any]] = []

    class Watched(folds.CrossValidation):
        def _batches(self, number: int) -> list[list[int]]:
            batches = super()._batches(number)
            seen.extend(zip(batches, [self.folds[fold] for _, fold in self.recipe.members], strict=True))
            return batches

    monkeypatch.setattr("preface.tuning.train.CrossValidation", Watched)
    preface.train(nano, "film", METHOD, out=tmp_path / "run", train_rows=10, **RECIPE)
    assert len(seen) == 6 * 6
    assert not any(set(batch) & set(fold) for batch, fold in seen)


@pytest.mark.parametrize("where", ["CrossValidation", "OnAllRows"])
def test_interrupted_it_ends_as_uninterrupted(
    nano: Backbone, run: Run, tmp_path: Path, where: str, monkeypatch: Any
) -> None:
    kind = getattr(folds, where)
    step = kind.step

    def stopping(self: Any, number: int, done: float) -> int:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, done)

    monkeypatch.setattr(kind, "step", stopping)
    with pytest.raises(Interrupted, match="goes on"):
        preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=6, draw=3, seeds=2, **RECIPE)
    monkeypatch.setattr(kind, "step", step)
    again = preface.train(nano, resume=tmp_path / "run")
    assert again.result.members == run.result.members
    for index in range(2):
        own, other = run.prompt(index).prompts.tensors, again.prompt(index).prompts.tensors
        assert all(own[name].equal(other[name]) for name in own)


def test_shots_are_so_many_of_each_label() -> None:
    split = load_split("film", "train")
    first, again, other = (few(split, 5, draw) for draw in (0, 0, 1))
    assert Counter(example.label for example in first.examples) == {"positive": 5, "negative": 5}
    assert first.examples == again.examples != other.examples


def test_mistakes(nano: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one of the two"):
        preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=2, train_rows=5)
    with pytest.raises(UserError, match="draw 3: is of shots"):
        preface.train(nano, "film", METHOD, out=tmp_path / "run", train_rows=5, draw=3)
    with pytest.raises(UserError, match="shots: at least 1"):
        preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=0)
    with pytest.raises(UserError, match="patience 3: with folds every prompt trains for all steps; leave it out"):
        preface.train(nano, "film", METHOD, out=tmp_path / "run", shots=2, folds=2, patience=3)

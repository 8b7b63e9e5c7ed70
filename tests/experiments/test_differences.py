"""Differences are held against the closed form of a paired difference of shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from preface.experiments.differences import Apart, Differences, difference_of, differences
from preface.experiments.report import write_report
from preface.labelling.measures import measured, right_answers
from preface.records.results import Cell
from preface.tasks import Example


def cell(method: str, right: Any, task: str = "cr", seed: int | None = None, trained: str = "sst2") -> Cell:
    given = ["yes" if one else "no" for one in right]
    value, details = measured("accuracy", [Example.of("", "yes")] * len(given), given, ("yes", "no"))
    trained_on = None if method == "zero-shot" else trained
    return Cell("small", method, trained_on, task, "accuracy", value, len(given), seed, 1, 0.0, details=details)


def found(cells: list[Cell]) -> Differences:
    result = differences(cells)
    assert result is not None
    return result


def test_right_answers_come_back() -> None:
    for n in (1, 7, 8, 9, 100):
        right = (np.random.default_rng(n).random(n) < 0.6).tolist()
        details = cell("tf-idf", right).details
        assert right_answers(details["right"], n) == right


def test_interval_of_one_seed_is_that_of_paired_shares() -> None:
    random = np.random.default_rng(0)
    first = random.random(1_000) < 0.8
    second = np.where(random.random(1_000) < 0.1, ~first, first)
    result = found([cell("prefix", first, seed=0), cell("prompt", second, seed=0)])
    assert result.reference == "prefix"
    assert result.columns == ("prompt",)
    ((task, by_column),) = result.rows
    apart = second.astype(float) - first
    difference = by_column["prompt"]
    assert task == "cr"
    assert difference.value == pytest.approx(apart.mean())
    reach = 1.96 * apart.std() / np.sqrt(1_000)
    assert difference.low == pytest.approx(apart.mean() - reach, abs=0.01 * reach)
    assert difference.high == pytest.approx(apart.mean() + reach, abs=0.01 * reach)


def test_interval_of_seeds_that_alone_differ_is_student_s() -> None:
    """Each seed is right on all rows or on none, so rows say nothing of their own."""
    right = [True, True, True, False, True]
    cells = [cell("prefix", [one] * 50, seed=seed) for seed, one in enumerate(right)] + [cell("tf-idf", [True] * 50)]
    difference = found(cells).rows[0][1]["tf-idf"]
    low, high = ttest_1samp([1.0 - one for one in right], 0).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("seeds", "of_seed", "tasks"), [(3, 0.0, 1), (3, 0.1, 4), (3, 0.4, 1), (10, 0.2, 4)])
def test_an_interval_holds_what_is_true_nineteen_times_in_twenty(seeds: int, of_seed: float, tasks: int) -> None:
    """Two columns that are trained alike: seeds differ, rows are hard or easy for both."""
    random = np.random.default_rng(0)

    def column(hard: list[Any]) -> list[Any]:
        luck = random.normal(0, of_seed, (seeds, 1))
        return [1 + each + luck + random.normal(0, 0.5, (seeds, len(each))) > 0 for each in hard]

    held, repeats = 0, 200
    for _ in range(repeats):
        hard = [random.normal(0, 1.5, 400) for _ in range(tasks)]
        one = difference_of([Apart(a * 1.0, b * 1.0) for a, b in zip(column(hard), column(hard), strict=True)])
        held += one.low <= 0 <= one.high
    assert held >= 0.9 * repeats


def test_tasks_with_other_numbers_of_seeds_have_a_mean_too() -> None:
    random = np.random.default_rng(0)
    tasks = [Apart(random.random((seeds, 50)), random.random((2, 50))) for seeds in (2, 3)]
    both, each = difference_of(tasks), [difference_of([task]) for task in tasks]
    assert both.value == pytest.approx(np.mean([one.value for one in each]))
    assert both.high - both.low < max(one.high - one.low for one in each)


def test_seeds_that_differ_widen_the_interval() -> None:
    random = np.random.default_rng(0)

    def reach(shares: list[float]) -> float:
        first = [cell("prefix", random.random(4_000) < 0.8, seed=seed) for seed in range(3)]
        second = [cell("prompt", random.random(4_000) < share, seed=seed) for seed, share in enumerate(shares)]
        difference = found(first + second).rows[0][1]["prompt"]
        return difference.high - difference.low

    assert reach([0.6, 0.7, 0.8]) > 3 * reach([0.7, 0.7, 0.7])


def test_the_same_answers_differ_by_nothing() -> None:
    right = [True, False, True, True]
    cells = [cell("prefix", right, seed=seed) for seed in range(3)] + [cell("tf-idf", right)]
    assert str(found(cells).rows[0][1]["tf-idf"]) == "+0.0 (+0.0 to +0.0)"


def test_the_mean_is_over_tasks_not_trained_on() -> None:
    right = {"sst2": (1, 1), "cr": (1, 0), "imdb": (0, 1), "tweets": (1, 0)}
    cells = [
        cell(method, [bool(one)] * 5, task, seed=0)
        for task, pair in right.items()
        for method, one in zip(("prefix", "prompt"), pair, strict=True)
    ]
    rows = dict(found(cells).rows)
    assert rows["mean of the 3 other tasks"]["prompt"].value == pytest.approx(-1 / 3)
    partly = [one for one in cells if (one.method, one.eval_task) != ("prompt", "cr")]
    assert dict(found(partly).rows)["mean of the 3 other tasks"] == {}
    assert dict(found(partly).rows)["cr"] == {}


def test_the_tasks_of_a_mixture_are_no_others() -> None:
    tasks = {"sst2": "sst2+cr", "cr": "sst2+cr", "imdb": "sst2+cr", "tweets": "sst2+cr"}
    cells = [cell(name, [True], task, 0, trained) for task, trained in tasks.items() for name in ("prefix", "prompt")]
    assert [name for name, _ in found(cells).rows] == [*tasks, "mean of the 2 other tasks"]


def test_nothing_to_compare() -> None:
    assert differences([cell("prefix", [True], seed=0)]) is None
    assert differences([cell("zero-shot", [True]), cell("tf-idf", [True])]) is None


def test_the_report_shows_them(tmp_path: Path) -> None:
    cells = [cell("prefix", [True, False], seed=0), cell("prompt", [True, True], seed=0)]
    write_report(cells, tmp_path, "Two")
    assert "| cr | +50.0 (−100.0 to +100.0) |" in (tmp_path / "table.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Beside prefix</h2>" in page
    assert "<td>+50.0 (−100.0 to +100.0)</td>" in page
    write_report(cells[:1], tmp_path, "One")
    assert "Beside" not in (tmp_path / "report.html").read_text()

"""Scores by what is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preface.experiments.costs import Cost, best_so_far, costs_of, figure_of_costs
from preface.records.results import Cell


def cell(method: str, trained: int, task: str, value: float, seed: int = 0, metric: str = "accuracy") -> Cell:
    return Cell("small", method, "sst2", task, metric, value, 100, seed, trained, 0.0)


def column(method: str, trained: int, home: float) -> list[Cell]:
    tasks = {"sst2": home, "cr": home - 0.1, "imdb": home - 0.3}
    return [cell(method, trained, task, value, seed) for task, value in tasks.items() for seed in (0, 1)]


def test_columns_that_train_by_how_much() -> None:
    cells = [*column("full", 1_000, 0.9), *column("prompt", 10, 0.8), *column("zero", 0, 0.5)]
    assert costs_of(cells) == []  # too few
    cells += [*column("lora", 100, 0.7), *column("bias", 20, 0.6)]
    found = costs_of(cells)
    assert [(cost.label, cost.trained) for cost in found] == [
        ("prompt", 10),
        ("bias", 20),
        ("lora", 100),
        ("full", 1_000),
    ]
    assert abs(found[0].home - 0.8) < 1e-9
    assert abs(found[0].elsewhere - 0.6) < 1e-9  # the mean over tasks
    assert costs_of([*cells, cell("other", 5, "sst2", 0.1, metric="f1"), cell("other", 5, "cr", 0.1)]) == []


def test_the_tasks_of_a_mixture_are_home() -> None:
    cells = [one for number in range(4) for one in column(str(number), 10 + number, 0.9)]
    found = costs_of([replace(one, train_task="sst2+cr") for one in cells])
    assert [cost.home for cost in found] == pytest.approx([0.85] * 4)
    assert [cost.elsewhere for cost in found] == pytest.approx([0.6] * 4)


def test_stored_bytes_are_known_where_all_cells_say() -> None:
    stored = [replace(one, details={"stored_bytes": 40 + 2 * (one.seed or 0)}) for one in column("lora", 10, 0.8)]
    cells = [*stored, *stored[:1], *column("bias", 20, 0.6), *column("full", 1_000, 0.9), *column("prompt", 5, 0.8)]
    assert [(cost.label, cost.stored) for cost in costs_of(cells)] == [
        ("prompt", None),
        ("lora", 41),
        ("bias", None),
        ("full", None),
    ]


def test_the_seconds_of_prompts_that_train_side_by_side_are_shared() -> None:
    def timed(method: str, trained: int, **details: object) -> list[Cell]:
        return [replace(cell, details=dict(details)) for cell in column(method, trained, 0.8)]

    cells = [*timed("prefix", 10, train_seconds=60.0, members=3), *timed("lora", 100, train_seconds=50.0)]
    cells += [*timed("bias", 20, train_seconds=30.0, members=1), *timed("full", 1_000)]
    assert [(cost.label, cost.seconds) for cost in costs_of(cells)] == [
        ("prefix", 20.0),
        ("bias", 30.0),
        ("lora", 50.0),
        ("full", None),
    ]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1))
def test_the_front_is_what_nothing_cheaper_equals(points: list[tuple[int, int]]) -> None:
    points.sort()
    expected = {
        (cost, score)
        for cost, score in points
        if not any((c < cost and s >= score) or (c == cost and s > score) for c, s in points)
    }
    assert best_so_far(points) == sorted(expected)


def test_it_is_drawn() -> None:
    costs = [
        Cost("prompt", 10, 0.8, 0.6, 40.0, 7.0),
        Cost("lora", 100, 0.7, 0.65, 400.0, 6.0),
        Cost("full", 1_000, 0.9, 0.5, 4_000.0, 5.0),
    ]
    home, elsewhere = figure_of_costs(costs).axes  # too few have bytes, and times
    assert [line.get_xydata().tolist() for line in home.lines[:1]] == [[[10, 80], [1_000, 90]]]
    assert [line.get_xydata().tolist() for line in elsewhere.lines[:1]] == [[[10, 60], [100, 65]]]
    costs += [Cost("bias", 20, 0.6, 0.6, 20.0), Cost("adapters", 500, 0.95, 0.7, None, 30.0)]
    *_, stored, _, home, elsewhere = figure_of_costs(costs).axes
    assert [line.get_xydata().tolist() for line in home.lines[:1]] == [[[5, 90], [30, 95]]]
    assert [line.get_xydata().tolist() for line in elsewhere.lines[:1]] == [[[5, 50], [6, 65], [30, 70]]]
    assert home.get_xlabel() == "seconds of one training"
    assert [line.get_xydata().tolist() for line in stored.lines[:1]] == [[[20, 60], [40, 80], [4_000, 90]]]
    assert stored.get_xlabel() == "stored bytes"


def test_long_names_have_room_above() -> None:
    costs = [Cost(f"a method with a long name · shots {n} · from sst2", 10**n, 0.8, 0.6) for n in range(1, 9)]
    figure = figure_of_costs(costs)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1

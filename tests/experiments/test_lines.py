"""What was varied, as a picture: against the cells that it is drawn of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from preface.experiments.lines import figure_of_lines, panels_of
from preface.experiments.report import write_report
from preface.records.results import Cell

TASKS = ("sst2", "imdb", "tweets", "phrases")
METHODS = ("prefix", "prompt")


def cell(method: str, task: str, value: float, seed: int | None = 0, **details: object) -> Cell:
    return Cell("small", method, "sst2", task, "accuracy", value, 100, seed, 10, 1.0, details=details)


def varied(base: str, value: float, task: str = "sst2", seed: int = 0, **axes: object) -> Cell:
    name = " · ".join([base, *(f"{axis} {value}" for axis, value in axes.items())])
    return cell(name, task, value, seed, column=base, varied=axes)


def score(base: str, length: int, seed: int) -> float:
    return 0.5 + METHODS.index(base) / 10 + length / 1_000 + seed / 50


@pytest.fixture
def lengths() -> list[Cell]:
    return [
        varied(base, score(base, length, seed), task, seed, length=length)
        for base in METHODS
        for task in TASKS
        for length in (100, 1, 10)
        for seed in (0, 1)
    ]


def drawn(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """The lines of several points."""
    lines = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_each_task_is_a_panel_with_a_line_for_each_method(lengths: list[Cell], tmp_path: Path) -> None:
    panels = panels_of(lengths)
    assert [(panel.axis, panel.task) for panel in panels] == [("length", task) for task in TASKS]
    assert panels[1].lines["prompt"]["10"] == (10, [pytest.approx(0.61), pytest.approx(0.63)])
    figure = figure_of_lines(panels)
    assert [axes.get_title() for axes in figure.axes] == list(TASKS)
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "100"]
        np.testing.assert_allclose(axes.get_xticks(), [0, 1, 2])  # they reach far: by their logarithms
        for base, (places, scores) in zip(METHODS, drawn(axes), strict=True):
            np.testing.assert_allclose(places, [0, 1, 2], atol=0.03)  # beside one another
            means = [100 * np.mean([score(base, length, seed) for seed in (0, 1)]) for length in (1, 10, 100)]
            np.testing.assert_allclose(scores, means)
    write_report(lengths, tmp_path, "Lengths")
    assert Image.open(tmp_path / "vary.png").format == "PNG"
    assert "Lines:" in (tmp_path / "report.html").read_text()


def test_what_is_not_varied_is_a_level(lengths: list[Cell]) -> None:
    levels = [cell("zero-shot", task, 0.4 + place / 10, None) for place, task in enumerate(TASKS)]
    levels += [cell("LoRA", task, 0.7 + seed / 10, seed) for task in TASKS for seed in (0, 1)]
    figure = figure_of_lines(panels_of([*lengths, *levels]))
    for place, axes in enumerate(figure.axes):
        levels_drawn = [line for line in axes.lines if line.get_linestyle() in {"--", ":"}]
        heights = [line.get_ydata()[0] for line in levels_drawn if len(line.get_xdata())]  # the others are the legend's
        np.testing.assert_allclose(heights, [40 + 10 * place, 75])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*METHODS, "zero-shot", "LoRA"]


def test_many_levels_would_hide_the_lines(lengths: list[Cell]) -> None:
    levels = [cell(f"method {n}", task, 0.5) for n in range(9) for task in TASKS]
    assert all(not panel.levels for panel in panels_of([*lengths, *levels]))


def test_two_axes_have_panels_of_their_own_and_a_line_for_each_value_of_the_other() -> None:
    measured = [varied("prefix", 0.5, length=length, init=init) for length in (1, 5) for init in ("random", "labels")]
    init, length = panels_of(measured)
    assert (init.axis, [*init.lines]) == ("init", ["prefix · length 1", "prefix · length 5"])
    assert (length.axis, [*length.lines]) == ("length", ["prefix · init random", "prefix · init labels"])
    assert panels_of(measured[:1]) == []


def test_names_are_dots_one_after_the_other_and_not_joined() -> None:
    inits = ("random", "text:Is this film review positive or negative?", "labels", "vocabulary", "activations")
    measured = [varied(base, 0.5, task, init=init) for base in METHODS for task in TASKS for init in inits]
    figure = figure_of_lines(panels_of(measured))
    assert all(not drawn(axes) for axes in figure.axes)
    figure.draw_without_rendering()
    labels = figure.axes[-1].get_xticklabels()
    assert [label.get_text().replace("\n", " ") for label in labels] == list(inits)
    boxes = [label.get_window_extent() for label in labels]
    assert all(not one.overlaps(other) for one, other in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1


def test_one_column_of_names_alone_is_left_to_the_picture_of_the_table() -> None:
    measured = [varied("zero-shot", 0.5, calibration=name) for name in ("contextual", "batch")]
    assert panels_of(measured) == []
    assert panels_of([*measured, cell("tf-idf", "sst2", 0.4)])


def test_numbers_that_are_near_do_not_overlap() -> None:
    measured = [varied("prefix", 0.5, task, length=n) for n in (1, 5, 20, 100, 150, 160) for task in TASKS]
    figure = figure_of_lines(panels_of(measured))
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text().strip() for label in labels] == ["1", "5", "20", "100", "150", "160"]
    for lower in range(3):
        line = [label.get_window_extent() for label in labels if label.get_text().count("\n") == lower]
        assert all(not one.overlaps(other) for one, other in pairwise(line))


def test_an_odd_number_of_panels_leaves_no_empty_frame() -> None:
    measured = [varied("prefix", 0.5, task, length=length) for task in TASKS[:3] for length in (1, 5)]
    figure = figure_of_lines(panels_of(measured))
    assert [bool(axes.lines) for axes in figure.axes if axes.get_visible()] == [True] * 3
    assert len(figure.axes) == 4

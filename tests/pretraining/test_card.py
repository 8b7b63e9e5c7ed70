from __future__ import annotations

from preface.pretraining.card import _thinned, series

LINES = [
    {"step": 0, "tokens": 0, "validation": {"noise": 9.0, "prefix-lm": None}},
    {"step": 10, "tokens": 40, "train": {"span-corruption": {"loss": 5.0, "text_loss": 7.0}}},
    {"step": 20, "tokens": 80, "validation": {"noise": 8.0}},
    {"step": 20, "tokens": 80, "probe": {"film": 0.5}},
]


def test_series_are_points_by_name() -> None:
    assert series(LINES, "validation") == {"noise": [(0, 9.0), (80, 8.0)]}
    assert series(LINES, "train") == {"span-corruption": [(40, 7.0)]}  # of text, not of sentinels
    assert series(LINES, "probe") == {"film": [(80, 0.5)]}


def test_long_series_are_thinned_to_means() -> None:
    points = [(place, float(place)) for place in range(1000)]
    thinned = _thinned(points, most=100)
    assert len(thinned) == 100
    assert thinned[0] == (9, 4.5)
    assert _thinned(points[:5], most=100) == points[:5]

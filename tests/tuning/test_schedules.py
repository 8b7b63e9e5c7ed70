from __future__ import annotations

import math

import pytest

from preface.tuning.schedules import done_since, rate_share


def test_schedules() -> None:
    assert rate_share("constant", 50, 0.5, 0) == 1
    assert rate_share("linear", 50, 0.25, 0) == 0.75
    assert rate_share("cosine", 50, 0.5, 10) == pytest.approx(0.5)
    assert rate_share("cosine", 99, 1.0, 10) == pytest.approx(0.0)
    assert rate_share("inverse-sqrt", 399, 0.1, 100) == pytest.approx(math.sqrt(100 / 400))
    for name in ("constant", "linear", "cosine", "inverse-sqrt"):
        assert rate_share(name, 0, 0.0, 10) == pytest.approx(0.1), name  # type: ignore[arg-type]


def test_of_so_many_steps_the_fall_begins_where_the_rise_ends() -> None:
    shares = [rate_share("linear", step, done_since(10, step, 110), 10) for step in (0, 9, 10, 60, 110)]
    assert shares == [0.1, 1.0, 1.0, 0.5, 0.0]
    assert rate_share("constant", 9, done_since(0, 9, 10), 0) == 1.0
    assert rate_share("cosine", 50, done_since(0, 50, 100), 0) == pytest.approx(0.5)

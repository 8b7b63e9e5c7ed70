"""The benchmark of long texts and many labels runs, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType


def test_every_size_is_measured(load: Callable[[str], ModuleType]) -> None:
    benchmark, tiny = load("long"), load("decoder_only")
    points = benchmark.measured(tiny.backbone(tiny.TINY), (4, 8), (2, 3))
    assert [(point.what, point.size) for point in points] == [
        *(pair for size in (4, 8) for pair in (("read a text", size), ("answer about it", size))),
        ("rank labels", 2),
        ("rank labels", 3),
    ]
    assert all(point.seconds > 0 for point in points)

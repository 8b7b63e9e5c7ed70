"""The benchmark of decoder-only models runs, on a tiny one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


def test_every_measure_is_taken(load: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("peft")
    benchmark = load("decoder_only")
    both = benchmark.DecoderOnly(runs=1, steps=2, shape=benchmark.TINY)
    for name in benchmark.MEASURES:
        (measure,) = getattr(both, name)()
        assert measure.ours > 0
        assert measure.peer > 0
        assert measure.ratio == pytest.approx(measure.peer / measure.ours)

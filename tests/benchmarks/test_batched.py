"""The benchmark of hand-written mathematics: both sides of every pair give the same, or it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


def test_every_part_is_measured(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load("batched")
    monkeypatch.setattr(benchmark, "POPULATIONS", (1, 2))
    monkeypatch.setattr(benchmark, "RUN_SECONDS", 0)
    benchmark.main(["--runs", "1", "--out", str(tmp_path / "batched.json")])
    measures = json.loads((tmp_path / "batched.json").read_text())["measures"]
    assert {item["prompts"] for item in measures} == {1, 2}
    assert len(measures) == 2 * 14
    assert all(item["ratio"] > 0 for item in measures)


@pytest.mark.parametrize("differs", ["results", "gradients"])
def test_unequal_sides_end_it(load: Callable[[str], ModuleType], differs: str) -> None:
    benchmark, one, two = load("batched"), torch.ones(3), torch.full((3,), 1.1)
    other = ([two], [one]) if differs == "results" else ([one], [two])
    with pytest.raises(SystemExit, match="2 prompt"):
        benchmark.measure(("a pair", lambda: ([one], [one]), lambda: other), 2, 1)

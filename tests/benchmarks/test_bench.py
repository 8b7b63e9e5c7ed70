"""The benchmark beside PEFT at a tiny shape: both sides are tried in every setting, and the faster is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("peft")
    return load("bench")


@pytest.fixture
def tiny(benchmark: ModuleType, load: Callable[[str], ModuleType]) -> Any:
    return benchmark.Bench(runs=1, steps=1, shape=load("sides").TINY, count=64)


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_ours_runs_in_the_faster_precision(
    benchmark: ModuleType, tiny: Any, faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    original = benchmark.Ours.__init__

    def recorded(side: Any, frozen: Any, *arguments: Any, **options: Any) -> None:
        used.append(str(frozen.dtype).removeprefix("torch."))
        original(side, frozen, *arguments, **options)

    def seconds(work: Callable[[], Any]) -> float:
        used.clear()
        work()
        return 1.0 if faster in used else 2.0

    monkeypatch.setattr(benchmark, "bfloat16_is_fast", lambda device: True)
    monkeypatch.setattr(benchmark.Ours, "__init__", recorded)
    monkeypatch.setattr(benchmark, "seconds", seconds)
    best, installed = tiny.decoder_prefix()
    for measure in (best, installed):
        assert measure.settings["ours"] == faster
        assert measure.runs["ours"] == [pytest.approx(1 / benchmark.EPOCHS)]
    (scored,) = tiny.scoring(count=32, theirs_of_them=16, tried=4)
    assert scored.settings["ours"] == faster
    assert scored.settings["peer"].split(", ")[0] in {"float32", "bfloat16 weights", "bfloat16 autocast"}
    assert faster in benchmark.lines([best])[0][-1]


def test_where_bfloat16_is_emulated_all_is_float32(
    benchmark: ModuleType, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "bfloat16_is_fast", lambda device: False)
    measures = [*tiny.prompt(), *tiny.every_site(), *tiny.population(), *tiny.products()]
    assert len(measures) == 5
    for measure in measures:
        assert all(setting.startswith("float32") for setting in measure.settings.values())
    benchmark.write(measures, tmp_path)
    assert [item["measure"] for item in json.loads((tmp_path / "bench.json").read_text())] == [
        measure.measure for measure in measures
    ]
    assert tiny.frozen(torch.float32) is tiny.frozen(torch.float32)

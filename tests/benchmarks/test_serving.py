"""The benchmark of serving: every measure runs to its end, and its table says what was reached."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone


def test_every_measure(
    load: Callable[[str], ModuleType], causal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    benchmark = load("serving")
    for name, value in (("BATCH", 8), ("ADAPTERS", 3), ("SECONDS", 0.5), ("CLIENTS", 4), ("MANY", 30)):
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main(["--backbone", str(causal_folder), "--runs", "1", "--dtype", "float32", "--out", str(tmp_path)])
    lines = json.loads((tmp_path / "serving.json").read_text())["lines"]
    assert len(lines) == 2 + 1 + 4 + 1 + 2 + 2 + 2
    assert all(isinstance(line["value"], float) for line in lines)
    assert (tmp_path / "serving.md").read_text().count("\n") == len(lines) + 2


def test_both_sides_answer_alike(load: Callable[[str], ModuleType], causal_folder: Path) -> None:
    """PEFT's side does its part: with the model's own prefix of nothing to say, its choice is a label word's."""
    pytest.importorskip("peft")
    benchmark = load("serving")
    backbone: Backbone = load_backbone(causal_folder, dtype="float32", device="cpu")
    peer = benchmark.Peft(backbone)
    one = [peer.ask(number, ["a fine film"])[0] for number in range(3)]
    assert set(one) <= {0, 1}
    assert peer.ask(1, ["a fine film", "dull, and long"])[0] == one[1]


def test_targets(load: Callable[[str], ModuleType]) -> None:
    line = load("serving").Line
    assert line("a", 1.0, "×", None, most=1.0).reached == "yes"
    assert line("a", 1.1, "×", None, most=1.0).reached == "no"
    assert line("a", 9.0, "×", None, least=10).reached == "no"
    assert line("a", 9.0, "×", None).reached == ""

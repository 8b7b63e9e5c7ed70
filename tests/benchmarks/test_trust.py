"""The benchmark of trust: a server of its own, asked well and badly."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_a_part_is_measured_and_written(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = load("trust")
    monkeypatch.setattr(trust, "ADAPTERS", 1)
    trust.main(["--only", "full disk", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "trust.json").read_text())["full disk"]
    assert found["upload"] == 503
    assert found["the old prompt answers"] is True


def test_bad_requests_are_of_all_kinds_and_remove_nothing(load: Callable[[str], ModuleType]) -> None:
    draw = random.Random(0)
    asked = [load("trust").bad_request(draw) for _ in range(500)]
    assert {"GET", "POST", "PUT", "DELETE"} == {method for *_, method in asked}
    assert len({path for path, *_ in asked}) > 8
    assert not any(method == "DELETE" and path == "/v1/prompts/p0" for path, _, _, method in asked)

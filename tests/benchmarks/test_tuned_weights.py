from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize("model", ["checkpoint_folder", "causal_folder"])
def test_times_a_step_and_an_evaluation(
    load: Callable[[str], ModuleType], request: pytest.FixtureRequest, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(model)
    load("tuned_weights").main(["--backbone", str(folder), "--tuning", "full", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [re.findall(r"full, (\w+) of 16 texts", line) for line in lines] == [["step"], ["evaluation"]]
    assert all(re.search(r"float32 \d\.\d+ s, mixed precision \d\.\d+ s \(\d+\.\d times\)$", line) for line in lines)

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize("model", ["checkpoint_folder", "causal_folder"])
def test_times_what_was_kept_and_what_is_read_again(
    load: Callable[[str], ModuleType], request: pytest.FixtureRequest, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(model)
    sizes = ["--prompts", "2", "--texts", "3", "--length", "9", "--pieces", "3", "--rounds", "1"]
    load("written_answers").main(["--backbone", str(folder), "--dtype", "float32", *sizes])
    (line,) = capsys.readouterr().out.splitlines()
    assert "2 prompts, 3 texts of 9 pieces" in line
    assert re.search(r"kept \d\.\d+ s, read for each prompt \d\.\d+ s \(\d+\.\d times\)$", line)

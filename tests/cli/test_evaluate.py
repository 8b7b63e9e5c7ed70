"""`evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Called


def test_evaluate_prints_cells(run: Path, call: Called) -> None:
    code, out, _ = call("evaluate", run, "--on", "posts", "--on", "film", "--json")
    assert code == 0
    assert [cell["eval_task"] for cell in json.loads(out)] == ["posts", "posts", "film", "film"]

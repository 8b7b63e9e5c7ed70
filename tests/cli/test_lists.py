"""`tasks` and `methods`."""

from __future__ import annotations

import json

from preface.tasks.registry import DEFINITIONS
from tests.cli.conftest import Called


def test_tasks_and_methods(call: Called) -> None:
    _, out, _ = call("tasks", "--json")
    names = {task["name"] for task in json.loads(out)}
    assert names == {path.stem for path in DEFINITIONS.glob("*.yaml")}
    assert names > {"sst2", "imdb", "trec", "film", "posts"}
    _, out, _ = call("methods", "--json", "--length", 7)
    for row in json.loads(out):
        assert row["gradient_receiving"] == row["trained"] > 0
        assert row["stored"] > 0
        assert row["length"] == 7
    code, out, _ = call("methods")
    assert code == 0
    assert "prompt-tun" in out

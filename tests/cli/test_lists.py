"""`tasks` and `methods`."""

from __future__ import annotations

import json

import pytest

from preface.tasks.registry import DEFINITIONS
from tests.cli.conftest import Called


def test_tasks_and_methods(call: Called) -> None:
    _, out, _ = call("tasks", "--json")
    names = {task["name"] for task in json.loads(out)}
    assert names == {path.stem for path in DEFINITIONS.glob("*.yaml")}
    assert names > {"sst2", "imdb", "trec", "film", "posts"}
    code, out, _ = call("methods")
    assert code == 0
    assert "prompt-tun" in out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_that_is_trained_gets_a_gradient(dtype: str, call: Called) -> None:
    _, out, _ = call("methods", "--json", "--length", 7, "--dtype", dtype)
    for row in json.loads(out):
        assert row["gradient_receiving"] == row["trained"] > 0
        assert row["trained"] >= row["stored"] > 0
        assert row["length"] == 7

"""`tasks`, `methods` and `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

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
        assert row["gradient_receiving"] > 0.5 * row["trained"] > 0  # units of a network may be silent
        plain = ("prompt-tuning", "prefix-tuning", "decomposed-prompts", "low-dimensional-prompts")
        if row["method"] in (*plain, "multitask-prompt-tuning"):
            assert row["gradient_receiving"] == row["trained"]
        if row["method"] in ("prompt-tuning", "prefix-tuning", "p-tuning", "residual-prompts"):
            assert row["trained"] >= row["stored"] > 0
        assert row["length"] == 7


def test_compare_takes_the_name_of_a_recipe(call: Called, tmp_path: Path) -> None:
    code, _, error = call("compare", "no-such-recipe", "--out", tmp_path / "out")
    assert code == 2
    assert "recipe no-such-recipe: neither shipped (demo, " in error


def test_report_says_where_it_looked(call: Called, tmp_path: Path) -> None:
    code, _, error = call("report", tmp_path, "--out", tmp_path / "page.html")
    assert code == 2
    assert f"no results.json below {tmp_path}" in error


def test_doctor(call: Called) -> None:
    code, out, _ = call("doctor")
    assert code == 0
    assert "float32 for --dtype auto" in out  # as `in_float32` says
    assert all(len(line) <= 120 for line in out.splitlines() if line.startswith(" "))
    code, listed, _ = call("doctor", "--json")
    assert code == 0
    for finding in json.loads(listed):
        assert f"{finding['about']:<12}" in out

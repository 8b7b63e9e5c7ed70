"""The benchmark of many tasks: what is read together, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from preface.backbones.load import load_backbone

TASKS = ("film", "posts", "cb")


@pytest.fixture
def experiment(load: Callable[[str], ModuleType], causal_folder: Path, tmp_path: Path) -> Path:
    """As `preface compare many-tasks` leaves it: a prompt of two tasks about one text, and of one about a pair."""
    backbone, serving = load_backbone(causal_folder, dtype="float32", device="cpu"), load("serving")
    for seed, task in enumerate(TASKS):
        serving.put(tmp_path / "tasks" / task / "train" / "prefix-tuning" / "prompt", backbone, seed, task)
    return tmp_path


def test_texts_are_read_once_for_tasks_that_read_alike(
    load: Callable[[str], ModuleType], causal_folder: Path, experiment: Path
) -> None:
    out = experiment / "found.json"
    given = [str(experiment), "--backbone", str(causal_folder), "--pieces", "20", "--runs", "2", "--out", str(out)]
    load("many_tasks").main(given)
    found = json.loads(out.read_text())
    every, alone = found["all tasks"], found["tasks about a text alone"]
    assert [(each["prompts"], each["read"]) for each in (every, alone)] == [(3, 2), (2, 1)]
    parts = experiment.glob("tasks/*/train/prefix-tuning/prompt/prompt.safetensors")
    assert every["prompt_bytes"] == sum(path.stat().st_size for path in parts)
    backbone = load_backbone(causal_folder, dtype="float32", device="cpu")
    assert every["model_bytes"] == 4 * backbone.parameters
    assert min(each[what] for each in (every, alone) for what in ("one", "together", "apart")) > 0


def test_a_folder_of_something_else(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="compare many-tasks"):
        load("many_tasks").main([str(tmp_path)])

"""Experiments that train on each task by itself, and the mean of their tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.experiments.report import markdown
from preface.experiments.spec import Experiment
from preface.experiments.table import MEAN, pivot
from preface.options import validated
from preface.records.results import read_cells

EACH = {
    "title": "each",
    "eval_tasks": ["film", "words.jsonl"],
    "columns": [{"method": "prompt-tuning", "length": 2, "learning_rates": [0.01, 0.1]}, "tf-idf"],
    "seeds": 2,
    "search": {"steps": 1},
    "train_rows": 24,
    "recipe": {"batch_size": 4, "steps": 2, "evaluate_every": 1},
}


@pytest.fixture(scope="module")
def finished(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("each")
    words = ("apple", "pear", "plum")
    rows = [{"text": f"a {word} number {i}", "label": word} for i in range(20) for word in words]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks = ["film", str(folder / "words.jsonl")]
    experiment = validated(Experiment, EACH | {"eval_tasks": tasks})
    preface.compare_cross_domain(experiment, out=folder / "out", backbone=nano)
    return folder


def test_each_task_is_trained_on_by_itself(finished: Path) -> None:
    cells = read_cells(finished / "out" / "results.json")
    assert {(cell.train_task, cell.eval_task) for cell in cells} == {("film", "film"), ("words.jsonl", "words.jsonl")}
    table = pivot(cells)
    assert table.columns == ("prompt-tuning", "tf-idf")
    assert "Trained on each task by itself" in table.caption
    *tasks, mean = table.rows
    assert mean.task == MEAN
    for column, entry in mean.entries.items():
        seeds = zip(*(row.entries[column].values for row in tasks), strict=True)
        assert entry.values == pytest.approx([sum(values) / 2 for values in seeds])
    assert f"| {MEAN} |  |" in markdown(table)


def test_what_is_there_is_not_measured_again(finished: Path, nano: Backbone, monkeypatch: Any) -> None:
    tasks = ["film", str(finished / "words.jsonl")]
    monkeypatch.setattr("preface.experiments.prompt.train", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr("preface.experiments.prompt.evaluate", lambda *a, **k: pytest.fail("measured again"))
    before = read_cells(finished / "out" / "results.json")
    preface.compare_cross_domain(
        validated(Experiment, EACH | {"eval_tasks": tasks}), out=finished / "out", backbone=nano
    )
    assert read_cells(finished / "out" / "results.json") == before


def test_all_tasks_are_checked_before_the_first_is_trained_on(nano: Backbone, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("preface.experiments.prompt.train", lambda *a, **k: pytest.fail("trained"))
    experiment = validated(Experiment, EACH | {"eval_tasks": ["film", "nowhere.jsonl"]})
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        preface.compare_cross_domain(experiment, out=tmp_path / "out", backbone=nano)
    assert not (tmp_path / "out").exists()

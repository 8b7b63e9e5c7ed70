"""Experiments over a cluster end as they do on one machine, whatever happens to its workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml

import preface
from preface.baselines.column import Setting
from preface.baselines.tfidf import TfIdf
from preface.cluster.compare import on_cluster
from preface.errors import UserError
from preface.experiments.matrix import Unit
from preface.records.results import read_cells
from preface.tasks import load_task
from preface.tasks.options import DataOptions
from preface.terminal.interrupt import Interrupted
from tests.cluster.conftest import at_worker

SMALL = {
    "title": "small",
    "train_task": "film",
    "eval_tasks": ["posts"],
    "columns": [{"method": "prefix-tuning", "length": 2, "learning_rates": [0.001, 0.01]}, "tf-idf"],
    "backbone": "nano",
    "seeds": 2,
    "search": {"steps": 2},
    "recipe": {"batch_size": 4, "steps": 30, "evaluate_every": 15},
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def without_times(cells: list[dict[str, Any]], out: Path) -> Any:
    """All that is not a time of this machine's, or a place in it."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept(item) for name, item in value.items() if "seconds" not in name}
        return [kept(item) for item in value] if isinstance(value, list) else value

    return kept(json.loads(json.dumps(cells).replace(str(out), "OUT")))


def results(out: Path) -> Any:
    return without_times(json.loads((out / "results.json").read_text()), out)


def when_training(out: Path, act: Callable[[psutil.Process], object]) -> Thread:
    """Do something to the worker that trains, in the middle of that."""
    metrics = out / "train" / "prefix-tuning" / "metrics.jsonl"
    return at_worker("prefix-tuning on posts", lambda: metrics.exists() and metrics.stat().st_size > 0, act)


def test_a_lost_worker_changes_no_number(
    cluster: str, spec: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preface.compare_cross_domain(spec, out=tmp_path / "one", dtype="float32")
    lost: list[int] = []

    def kill(process: psutil.Process) -> None:
        process.kill()
        lost.append(process.pid)

    thread = when_training(tmp_path / "many", kill)
    preface.compare_cross_domain(spec, out=tmp_path / "many", dtype="float32", compute=on_cluster(cluster))
    thread.join()
    assert lost
    assert results(tmp_path / "many") == results(tmp_path / "one")
    assert "prefix-tuning on posts: done, 2 of 2" in capfd.readouterr().err


def test_ctrl_c_ends_workers_between_two_steps(cluster: str, spec: Path, tmp_path: Path) -> None:
    """What is done by then is kept, and so is a checkpoint of what is not."""
    thread = when_training(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the same command goes on"):
        preface.compare_cross_domain(spec, out=tmp_path, steps=100_000, compute=on_cluster(cluster))
    thread.join()
    assert list((tmp_path / "train" / "prefix-tuning" / "checkpoints").glob("step-*"))
    assert "prefix-tuning" not in {cell.method for cell in read_cells(tmp_path / "results.json")}


def test_a_mistake_is_a_line_with_the_cell_s_name(cluster: str, tmp_path: Path) -> None:
    """As where a worker does not see the experiment's folder."""
    setting = Setting(tmp_path / "not-shared", DataOptions())
    unit = Unit(TfIdf(train_task="film"), [load_task("posts")], setting)
    with pytest.raises(UserError, match=r"^tf-idf on posts: the machine .* has no .*not-shared.* share"):
        list(on_cluster(cluster)([unit]))


@pytest.mark.parametrize(("address", "says"), [("localhost:1", "no cluster answers"), ("film", "write HOST:PORT")])
def test_no_cluster_at_the_address(address: str, says: str, tmp_path: Path, spec: Path) -> None:
    with pytest.raises(UserError, match=f"ray {address}: .*{says}"):
        preface.compare_cross_domain(spec, out=tmp_path / "out", compute=on_cluster(address))


def test_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preface.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'preface\[cluster\]'"):
        on_cluster()

"""Trainings by two processes, held against the same by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.metrics import METRICS
from preface.records.run import RECORD, Run
from preface.tuning import loop
from preface.tuning.processes import Processes, Share
from tests.tuning.together import train

ROOT = Path(__file__).parents[2]
WORDS = {"label_words": {"yes": "positive", "no": "negative"}}
RECIPE: dict[str, Any] = {"learning_rates": [0.02, 0.1], "steps": 5, "evaluate_every": 2, "batch_size": 3}


class One:
    """What accelerate says of one of several processes."""

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes


@pytest.fixture(autouse=True)
def a_line_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@given(
    batch=st.lists(st.integers(0, 40), max_size=12),
    count=st.integers(1, 5),
    keep=st.booleans(),
)
def test_every_row_is_one_process_s(batch: list[int], count: int, keep: bool) -> None:
    texts, found = list(range(100, 141)), {}
    for index in range(count):
        share = Share(Processes(One(index, count)), keep)  # type: ignore[arg-type]
        places, own = share.of(batch)
        assert [share.texts(texts)[text] for text in own] == [texts[batch[place]] for place in places]
        assert not found.keys() & set(places)
        found |= dict.fromkeys(places, index)
    assert found.keys() == set(range(len(batch)))
    if keep:  # and a text's, in every batch
        assert all(found[place] == text % count for place, text in enumerate(batch))
    else:
        sizes = [list(found.values()).count(index) for index in range(count)]
        assert max(sizes) - min(sizes) <= 1


def test_there_must_be_others_to_share_with(tiny_float32: Backbone, data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spread rows: needs several processes; `torchrun"):
        preface.train(tiny_float32, data_file, out=tmp_path / "run", spread="rows")
    with pytest.raises(UserError, match="spread evenly: one of auto, rows, members, weights"):
        preface.train(tiny_float32, data_file, out=tmp_path / "run", spread="evenly")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some rows, a task of them whose answers are written, and one of two labels."""
    folder = tmp_path_factory.mktemp("rows")
    said = ("good", "bad")
    lines = [f"the {said[i % 2]} thing number {i}{' and more' * (i % 4)},{('yes', 'no')[i % 2]}" for i in range(40)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines, ""]))
    words = [f"{line.split(' number')[0]} {i},{said[i % 2]}" for i, line in enumerate(lines)]
    (folder / "words.csv").write_text("\n".join(["text,label", *words, ""]))
    (folder / "test.csv").write_text("text,label\nanother good one,good\nanother bad one,bad\n")
    (folder / "other-test.csv").write_text("text,label\nsomething good,yes\nsomething bad,no\n")
    parts = "splits: {train: {part: rows}, validation: {part: rows, share: 0.25}, test: {part: test}}\n"
    for name, what in (
        ("written", "metric: exact_text"),
        ("chosen", "metric: macro_f1\nlabels: {good: good, bad: bad}"),
        ("other", "metric: accuracy\nlabels: {'yes': 'yes', 'no': 'no'}"),
    ):
        file, test = ("rows.csv", "other-test.csv") if name == "other" else ("words.csv", "test.csv")
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nsource: {{files: {{parts: {{rows: {file}, test: {test}}}}}}}\n"
            f"fields: {{input: text, label: label}}\n{what}\n{parts}"
        )
    return folder


def trainings(rows: Path, checkpoint: Path, causal_folder: Path) -> dict[str, dict[str, Any]]:
    """By name, as `together` takes them."""
    t5 = {"backbone": str(checkpoint), "task": str(rows / "rows.csv"), **WORDS, **RECIPE}
    causal = t5 | {"backbone": str(causal_folder)}
    kept = {"method": "prefix-tuning", "config": {"length": 2, "sites": ["decoder"]}}
    anew = {"method": "prefix-tuning", "config": {"length": 2, "sites": ["encoder"]}}
    before = {"method": "prefix-tuning", "config": {"length": 2, "sites": ["input", "answer"]}}
    after = {"method": "prefix-tuning", "config": {"length": 2, "sites": ["answer"], "init": "activations"}}
    shared = {"method": "multitask-prompt-tuning", "config": {"length": 2}}
    mixture = f"{rows / 'chosen.yaml'}+{rows / 'other.yaml'}"
    return {
        "rows, kept": t5 | kept | {"spread": "rows", "seeds": 2},
        "rows, fewer than processes": t5 | kept | {"spread": "rows", "batch_size": 1, "learning_rates": [0.1]},
        "rows, read anew": causal | before | {"spread": "rows", "class_weights": "balanced"},
        "members, read anew": t5 | anew | {"spread": "members", "patience": 1, "seeds": 2, "steps": 8},
        "members, adafactor": causal | after | {"spread": "members", "optimizer": "adafactor"},
        "auto, folds": t5 | kept | {"spread": "auto", "folds": 3, "learning_rates": [0.1]},
        "rows, tasks": {"backbone": str(checkpoint), "task": mixture, **shared, **RECIPE, "spread": "rows"},
        "rows, written": causal | after | {"spread": "rows", "task": str(rows / "written.yaml"), "label_words": None},
        "weights, kept": causal | after | {"spread": "weights"},
        "weights, read anew": causal | before | {"spread": "weights", "batch_size": 1},
        "weights, both sides": t5 | anew | {"spread": "weights", "config": {"length": 2}},
        "weights, written": t5 | kept | {"spread": "weights", "task": str(rows / "written.yaml"), "label_words": None},
    }


@pytest.fixture(scope="module")
def wanted(rows: Path, checkpoint_folder: Path, causal_folder: Path) -> dict[str, dict[str, Any]]:
    return trainings(rows, checkpoint_folder, causal_folder)


def test_alone_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one of several processes of a pre-training trains a prompt."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Processes.here("cpu", None).count == 1


def launch(folder: Path, wanted: dict[str, Any], cache: Path) -> subprocess.CompletedProcess[str]:
    """Have two processes do them."""
    folder.mkdir(exist_ok=True)
    (folder / "together.json").write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFACE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("PREFACE_DTYPE", None)
    return subprocess.run(
        [*command, "-m", "tests.tuning.together", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def together(wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = launch(folder, wanted, folder / "cache")
    assert done.returncode == 0, done.stderr[:6000]
    assert done.stderr.count("3 folds: rate") == 1  # one of them speaks
    return folder


@pytest.mark.parametrize("name", trainings(Path(), Path(), Path()))
def test_two_end_as_one_does(name: str, wanted: dict[str, Any], together: Path, tmp_path: Path) -> None:
    fields = {key: value for key, value in wanted[name].items() if key != "spread"}
    train(tmp_path / "one", fields, None)
    assert_alike(Run(together / name), Run(tmp_path / "one"))


def assert_alike(two: Run, one: Run) -> None:
    """Equal up to the order in which numbers were added."""
    assert len(two.members) == len(one.members)
    for own, other in zip(two.members, one.members, strict=True):
        assert (own.score, own.step) == (other.score, other.step)
        mine, theirs = (run.prompt(own.index).prompts.tensors_of(0) for run in (two, one))
        for key in theirs:
            torch.testing.assert_close(mine[key], theirs[key], atol=2e-5, rtol=1e-4)
    for own_line, other_line in zip(lines(two), lines(one), strict=True):
        assert own_line == pytest.approx(other_line, rel=1e-4, abs=1e-5)
    assert (two.record.splits, two.record.fingerprint) == (one.record.splits, one.record.fingerprint)


def lines(run: Run) -> list[dict[str, Any]]:
    """Of `metrics.jsonl`, but for the clock."""
    found = []
    for line in (run.folder / METRICS).read_text().splitlines():
        fields = {key: value for key, value in json.loads(line).items() if key != "seconds"}
        losses, by_task = fields.pop("losses", []), fields.pop("dev_scores", {})
        found.append(fields | by_task | {f"loss {number}": loss for number, loss in enumerate(losses) if loss})
    return found


def test_where_one_is_killed_the_others_end_and_any_number_goes_on(
    wanted: dict[str, Any], together: Path, tmp_path: Path
) -> None:
    """Killed among members: what is trained lies in parts then, and a checkpoint has all of it."""
    name = "members, read anew"
    done = launch(tmp_path / "broken", {name: wanted[name] | {"killed_at": 5}}, together / "cache")
    assert done.returncode != 0
    folder = tmp_path / "broken" / name
    assert json.loads((folder / RECORD).read_text())["result"] is None
    shutil.copytree(folder, tmp_path / "copy" / name)
    assert_alike(preface.train(resume=folder), Run(together / name))
    done = launch(tmp_path / "copy", {name: {"spread": "rows", "resume": True}}, together / "cache")
    assert done.returncode == 0, done.stderr[:6000]
    assert_alike(Run(tmp_path / "copy" / name), Run(together / name))

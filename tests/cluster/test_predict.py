"""Labels in parts are the labels of one machine, row by row, and what is whole is not labelled again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import preface
from preface.backbones.base import Backbone
from preface.cluster import predict as on_cluster
from preface.cluster.predict import Work, _Labeller, predict_on_cluster
from preface.errors import UserError
from preface.methods import PrefixTuning
from tests.cluster.conftest import at_worker

ROWS = 299


@pytest.fixture(scope="module")
def run(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "film"
    preface.train(nano, "film", PrefixTuning(length=2), out=out, learning_rates=[1e-2], steps=1, batch_size=8)
    return out


@pytest.fixture
def parts_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster, "PART", 4)


def write(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts}), path, row_group_size=5)
    return path


@pytest.mark.usefixtures("parts_of_four")
def test_parts_are_the_lines_of_one_machine_though_a_worker_is_lost(cluster: str, run: Path, tmp_path: Path) -> None:
    texts = [f"{'long ' * (i % 7)} film {i}" for i in range(ROWS)]
    texts[5] = " "
    file, out = write(tmp_path / "big.parquet", texts), tmp_path / "labels"
    with pytest.raises(UserError, match=r"big\.parquet row 6: the field 'text' is empty"):
        predict_on_cluster(run, file, tmp_path / "strict", address=cluster, dtype="float32")

    lost: list[int] = []

    def kill(process: psutil.Process) -> None:
        process.kill()
        lost.append(process.pid)

    thread = at_worker("MapWorker", (out / "part-00001.jsonl").exists, kill)
    parts = predict_on_cluster(run, file, out, address=cluster, dtype="float32", skip_bad_rows=True)
    thread.join()
    assert lost
    assert [part.name for part in parts] == [f"part-{number:05}.jsonl" for number in range(75)]
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    expected = list(preface.predict(run, file, dtype="float32", skip_bad_rows=True))
    assert (
        [line["line"] for line in found] == [line["line"] for line in expected] == [1, 2, 3, 4, 5, *range(7, ROWS + 1)]
    )
    for one, other in zip(found, expected, strict=True):
        assert (one["line"], one.keys()) == (other["line"], other.keys())
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)

    parts[0].write_text("whole already\n")
    parts[1].unlink()
    again = predict_on_cluster(run, file, out, address=cluster, dtype="float32", skip_bad_rows=True)
    assert parts[0].read_text() == "whole already\n"
    assert [json.loads(line)["line"] for line in again[1].read_text().splitlines()] == [5, 7, 8]


def test_likely_mistakes(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na film\n")
    with pytest.raises(UserError, match="a Parquet file"):
        predict_on_cluster(run, tmp_path / "rows.csv", tmp_path / "out")
    with pytest.raises(UserError, match=r"gone\.parquet"):
        predict_on_cluster(run, tmp_path / "gone.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert predict_on_cluster(run, write(tmp_path / "none.parquet", []), tmp_path / "out") == []


def test_a_folder_is_kept_for_its_labels_once_there_are_some(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label_here(work: Work, parts: Mapping[Path, range], *_: object) -> None:
        for path, rows in parts.items():
            said = _Labeller(work, os.getcwd())({"path": str(path), "first": rows.start, "end": rows.stop})
            if said["error"]:
                raise UserError(said["error"])

    monkeypatch.setattr(on_cluster, "_label", label_here)
    file, out = write(tmp_path / "films.parquet", ["a film", "another"]), tmp_path / "out"
    with pytest.raises(UserError, match="'txt'"):
        predict_on_cluster(run, file, out, input="txt")
    (part,) = predict_on_cluster(run, file, out, input="text")
    assert len(part.read_text().splitlines()) == 2
    with pytest.raises(UserError, match=r"holds other labels \(see .*predict\.json\); give another --out"):
        predict_on_cluster(run, file, out, input="txt")

"""`predict`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Called, preface


def test_predict_streams_from_standard_input(run: Path) -> None:
    done = preface("predict", run, input='{"text": "a fine film"}\n{"text": "dull"}\n')
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line["probabilities"]) for line in lines] == [{"negative", "positive"}] * 2
    table = preface("predict", run, "--input", "words", input='words,more\n"a fine, fine film",1\n')
    assert len(table.stdout.splitlines()) == 1


def test_over_a_cluster_labels_go_to_a_folder(run: Path, call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = call("predict", run, "big.parquet", "--ray")
    assert code == 2
    assert "give --out FOLDER" in err
    code, _, err = call("predict", run, "big.csv", "--out", "labels")
    assert code == 2
    assert "give --ray too" in err
    monkeypatch.setattr("preface.extras.find_spec", lambda name: None)
    code, _, err = call("predict", run, "big.parquet", "--out", "labels", "--ray")
    assert code == 2
    assert "pip install 'preface[cluster]'" in err

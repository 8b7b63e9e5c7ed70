"""`ensemble`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Called


def test_an_ensemble_is_measured_saved_and_used_like_a_prompt(run: Path, tmp_path: Path, call: Called) -> None:
    code, out, error = call("ensemble", run, "--prompts", "all", "--out", tmp_path / "all", "--on", "posts")
    assert code == 0, error
    assert "majority vote" in out
    assert "4 prompts" in out
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a fine film"}\n')
    code, out, error = call("predict", tmp_path / "all", rows)
    assert code == 0, error
    assert set(json.loads(out)["probabilities"]) == {"negative", "positive"}


def test_a_slip_is_one_line(run: Path, tmp_path: Path, call: Called) -> None:
    code, _, error = call("ensemble", run, "--combine", "sum", "--out", tmp_path / "all")
    assert code == 2
    assert error.strip() == "preface: combine sum: one of mean, vote, weighted"

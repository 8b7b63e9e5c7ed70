"""`train`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Called


def test_own_csv_needs_no_yaml(tmp_path: Path, call: Called) -> None:
    file = tmp_path / "reviews.csv"
    rows = (f'"a {("good", "bad")[i % 2]} one, number {i}",{i % 2}' for i in range(40))
    file.write_text("text,stars\n" + "\n".join(rows) + "\n")
    arguments = ["train", "--task", file, "--input", "text", "--label", "stars", "--label-words", "0=good", "1=bad"]
    arguments += ["--steps", 2, "--seed", 3, "--out", tmp_path / "run"]
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "preface evaluate" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["label_words"] == ["good", "bad"]
    assert record["recipe"]["seeds"] == [3]
    assert record["command"] == ["preface", *map(str, arguments)]


def test_skipped_rows_are_counted_and_listed(call: Called, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    rows = [f"text {i},{('a', 'b')[i % 2]}" for i in range(30)]
    file.write_text("text,label\n" + "\n".join([*rows[:10], "only one cell", *rows[10:], ",a"]) + "\n")
    arguments = ["train", "--task", file, "--skip-bad-rows", "--steps", 1, "--length", 1, "--out", tmp_path / "r"]
    code, out, err = call(*arguments)
    assert code == 0
    for command in follow_ups(out):  # they leave out the same rows
        code, _, complaint = call(*shlex.split(command.removesuffix(" > labels.jsonl"))[1:])
        assert code == 0, complaint
    said = err.replace("\n", " ")
    assert "2 bad rows were left out" in said
    assert "line 12" in said
    assert "line 33" in said


def follow_ups(out: str) -> list[str]:
    return [line.strip() for line in out.partition("Next:")[2].strip().splitlines()]


def test_what_it_suggests_works_for_an_own_file(tmp_path: Path, call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (f'"a {("good", "bad")[i % 2]} one, number {i}",{("up", "down")[i % 2]}' for i in range(30))
    Path("my reviews.csv").write_text("words,verdict\n" + "\n".join(rows) + "\n")
    code, out, err = call(
        "train", "--task", "my reviews.csv", "--input", "words", "--label", "verdict", "--steps", 1, "--length", 1,
        "--batch-size", 4, "--learning-rate", 0.01, "--out", "my run",
    )  # fmt: skip
    assert code == 0, err
    evaluate, predict = follow_ups(out)
    for command in (evaluate, predict.removesuffix(" > labels.jsonl")):
        name, *arguments = shlex.split(command)
        assert name == "preface"
        code, out, err = call(*arguments)
        assert code == 0, err
    assert len(out.splitlines()) == 30


def test_what_it_suggests_works_for_a_shipped_task(tmp_path: Path, call: Called) -> None:
    code, out, err = call(
        "train", "--task", "film", "--steps", 1, "--length", 1, "--batch-size", 4, "--learning-rate", 0.01,
        "--out", tmp_path / "my run",
    )  # fmt: skip
    assert code == 0, err
    evaluate, predict = follow_ups(out)
    assert "--on reviews" in evaluate
    code, _, err = call(*shlex.split(evaluate)[1:], "--json")
    assert code == 0, err
    command = predict.replace("| preface", f"| {sys.executable} -m preface")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["label"] in ("positive", "negative"), done.stderr

"""Verbs as a user meets them: a process or a call, its output, its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preface import cli

Called = Callable[..., tuple[int, str, str]]


def preface(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preface", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


@pytest.fixture(scope="package", autouse=True)
def in_float32() -> Iterator[None]:
    """Also in processes: the embedded backbone is slow in emulated bfloat16, and precision is not the point here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFACE_DTYPE", "float32")
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Called:
    return lambda *arguments: in_process(list(arguments), capsys, monkeypatch)


def in_process(
    arguments: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """The same without the seconds that a new process takes to import torch."""
    monkeypatch.setattr(sys, "argv", ["preface", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    done = preface(
        "train", "--task", "film", "--length", 2, "--learning-rate", 1e-3, 1e-2, "--seeds", 2, "--steps", 2,
        "--batch-size", 4, "--out", folder, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)  # and nothing else on standard output
    assert [(cell["details"]["learning_rate"], cell["seed"]) for cell in cells] == [
        (0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)
    ]  # fmt: skip
    assert {"backbone", "method", "train_task", "eval_task", "metric", "value", "n", "versions"} <= set(cells[0])
    return folder

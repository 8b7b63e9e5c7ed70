"""Ctrl-C, and a reader who has enough."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preface.tasks.find import EMBEDDED


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "preface", "train", "--task", "film", "--length", "1", "--seeds", "1"]
    command += ["--steps", "100000", "--evaluate-every", "50000", "--learning-rate", "0.01", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and "losses" not in _read(out / "metrics.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"preface train --resume {out}" in err
    assert "Traceback" not in err
    assert list((out / "checkpoints").glob("step-*"))


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def wait_for_torch(process: int) -> None:
    """Until a process has begun to import torch."""
    maps = Path(f"/proc/{process}/maps")
    if not maps.exists():
        pytest.skip("there is no /proc to see what a process has loaded")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and "libtorch" not in maps.read_text():
        time.sleep(0.05)


def test_ctrl_c_in_predict_is_one_line(run: Path) -> None:
    command = [sys.executable, "-m", "preface", "predict", str(run)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_torch(process.pid)
    time.sleep(5)  # it has the backbone by now, most likely, and waits for rows
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err == "preface: interrupted\n"
    # interrupted in code that a library makes from a string, Python ends itself by the signal, which a shell calls 130
    assert process.returncode in (130, -signal.SIGINT)


def test_ctrl_c_while_it_starts_is_one_line() -> None:
    command = [sys.executable, "-m", "preface", "train", "--task", "film"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_torch(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err == "preface: interrupted\n"
    # interrupted in code that a library makes from a string, Python ends itself by the signal, which a shell calls 130
    assert process.returncode in (130, -signal.SIGINT)


def test_a_reader_who_has_enough_is_no_mistake(run: Path) -> None:
    reviews = EMBEDDED / "reviews.jsonl"
    command = f"{sys.executable} -m preface predict {run} {reviews} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""

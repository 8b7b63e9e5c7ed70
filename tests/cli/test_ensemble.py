"""`ensemble`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from preface.backbones.load import load_checkpoint
from tests.cli.conftest import Called


def test_an_ensemble_is_measured_saved_and_used_like_a_prompt(run: Path, tmp_path: Path, call: Called) -> None:
    code, out, error = call("ensemble", run, "--prompts", "all", "--out", tmp_path / "all", "--on", "posts")
    assert code == 0, error
    assert "majority vote" in out
    size = (tmp_path / "all" / "prompt" / "prompt.safetensors").stat().st_size
    copies = 4 * 4 * sum(p.numel() for p in load_checkpoint("nano", torch.float32)[0].parameters())
    assert f"4 prompts are {size:,} bytes; as many tuned copies of the model would be {copies:,} in float32." in out
    assert re.search(r"64 development rows took [\d.]+ s in one batch, [\d.]+ s one prompt after the other", out)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a fine film"}\n')
    code, out, error = call("predict", tmp_path / "all", rows)
    assert code == 0, error
    assert set(json.loads(out)["probabilities"]) == {"negative", "positive"}


def test_a_slip_is_one_line(run: Path, tmp_path: Path, call: Called) -> None:
    code, _, error = call("ensemble", run, "--combine", "sum", "--out", tmp_path / "all")
    assert code == 2
    assert error.strip() == "preface: combine sum: one of mean, vote, weighted"

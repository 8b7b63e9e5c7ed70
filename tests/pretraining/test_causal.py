"""Decoder-only models trained on: on text, on instructions; the loss is Transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import preface
from preface.errors import UserError
from preface.pretraining.mixture import IGNORED
from preface.pretraining.weights import Losses
from preface.records.metrics import read_metrics

SMALL: dict[str, Any] = {"input_length": 32, "batch_size": 4, "dtype": "float32", "device": "cpu", "validate_every": 4}


@torch.no_grad()
def test_the_loss_is_transformers_own(causal_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal_folder).eval()
    inputs = torch.tensor([[0, 0, 11, 12], [21, 22, 23, 24]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    labels = torch.tensor([[31, 32, 1], [41, 1, IGNORED]])
    total, count, *_ = Losses(model, torch.ones(16384, dtype=torch.bool))(inputs, mask, labels).tolist()
    expected = 0.0
    for read, said in (([11, 12], [31, 32, 1]), ([21, 22, 23, 24], [41, 1])):
        own = torch.tensor([[*[-100] * len(read), *said]])
        expected += float(model(input_ids=torch.tensor([[*read, *said]]), labels=own).loss) * len(said)
    assert count == 5
    assert total == pytest.approx(expected, rel=1e-5)


def test_adapted_on_text_and_instructions_it_is_a_backbone(
    causal_folder: Path, tokens_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    out = preface.adapt(
        causal_folder, tmp_path / "out", tokens=tokens_folder, objectives={"prefix-lm": 1, "instructions": 1},
        tasks=[str(data_file)], steps=24, learning_rate=0.05, **SMALL,
    )  # fmt: skip
    lines = [line["validation"] for line in read_metrics(out) if "validation" in line]
    assert lines[-1]["instructions"] < lines[0]["instructions"]
    assert lines[-1]["prefix-lm"] < lines[0]["prefix-lm"]
    backbone = preface.load_backbone(out, dtype="float32", device="cpu")
    assert backbone.seen_tasks == (data_file.name,)
    card = (out / "README.md").read_text()
    assert "A llama of" in card
    assert "AutoModelForCausalLM" in card
    assert json.loads((out / "backbone.json").read_text())["config"]["hidden_size"] == 24


def test_it_has_no_spans_to_corrupt(causal_folder: Path, tokens_folder: Path, tmp_path: Path) -> None:
    options = {"objectives": {"span-corruption": 1}, "steps": 1, **SMALL}
    with pytest.raises(UserError, match=r"span-corruption: .* is a decoder-only model, which learns text by prefix-lm"):
        preface.adapt(causal_folder, tmp_path / "out", tokens=tokens_folder, **options)

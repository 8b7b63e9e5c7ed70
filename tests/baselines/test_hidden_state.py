from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, T5EncoderModel

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.baselines.column import Setting
from preface.baselines.hidden_state import HiddenState, mean_states
from preface.baselines.logistic_regression import fit_classifier
from preface.options import validated
from preface.tasks import Example
from preface.tasks.options import DataOptions

EXAMPLES = [Example.of(text, "yes") for text in ("one", "it is long and it is not what I came to see", "two and three")]


@torch.no_grad()
def test_the_mean_of_what_transformers_last_layer_gives(tiny: Backbone, checkpoint_folder: Path) -> None:
    model = T5EncoderModel.from_pretrained(checkpoint_folder, dtype=torch.float32).eval()
    for example, mean in zip(EXAMPLES, mean_states(tiny, EXAMPLES), strict=True):
        ids = torch.tensor(tiny.tokenize([example.text], 64)[0])
        torch.testing.assert_close(mean, model(ids).last_hidden_state[0].mean(0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_of_a_decoder_only_model(causal_folder: Path) -> None:
    backbone = load_backbone(causal_folder, dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(causal_folder, dtype=torch.float32).eval()
    for example, mean in zip(EXAMPLES, mean_states(backbone, EXAMPLES), strict=True):
        ids = torch.tensor(backbone.tokenize([example.text], 64)[0])
        expected = model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-4)


def test_it_learns_and_is_right_more_often_than_chance(nano: Backbone, tmp_path: Path) -> None:
    setting = Setting(tmp_path, DataOptions(), backbone=nano)
    column = validated(HiddenState, {"backbone": "nano", "train_task": "film", "train_rows": 200})
    ((cell,),) = column.cells(setting, [setting.task("film")])
    assert cell.value > 0.6
    assert cell.trained_parameters == nano.width + 1
    assert cell.details["train_seconds"] > 0
    assert cell.details["stored_bytes"] > 8 * 3 * nano.width  # weights, and means and deviations of the features


def test_the_strength_that_does_best_on_development_rows_is_taken() -> None:
    """One feature that tells, in a hundred that do not: weak regularisation fits the others."""
    torch.manual_seed(0)
    train, dev = torch.randn(60, 100), torch.randn(200, 100)
    labels, dev_labels = (["yes" if row[0] > 0 else "no" for row in rows] for rows in (train, dev))
    chosen = fit_classifier(train.numpy(), labels, dev.numpy(), dev_labels, (1e-4, 1e-2, 1e4))
    scores = [
        fit_classifier(train.numpy(), labels, dev.numpy(), dev_labels, (strength,)).score(dev.numpy(), dev_labels)
        for strength in (1e-4, 1e-2, 1e4)
    ]
    assert chosen.score(dev.numpy(), dev_labels) == pytest.approx(max(scores))

"""Tuning weights: losses and scores beside the frozen backbone's, one step beside torch's own optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone, load_checkpoint
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts
from preface.tasks import load_split, load_task
from preface.terminal.interrupt import Interrupted
from preface.tuning import tuned as tuned_module
from preface.tuning.loop import Loop
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Rows
from preface.tuning.tunable import make_tunable
from preface.tuning.tuned import Tuned, label_scores

WORDS = ("yes", "not at all", "no")
TEXTS = ["one more", "it is long and it is not what I came to see", "dull"]


@pytest.fixture(params=["t5", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("checkpoint_folder" if request.param == "t5" else "causal_folder")


def rows_of(backbone: Backbone, data_file: Path) -> Rows:
    task = load_task(data_file)
    labels = LabelWords.of(backbone, task.label_words, task.cue)
    return Rows.of(backbone, labels, load_split(task, "train"), load_split(task, "validation"), 64, task.cue)


def begun(folder: Path, data_file: Path, **recipe) -> Tuned:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, parameters = make_tunable(load_checkpoint(folder, torch.float32)[0], "full")
    fields = {"learning_rates": (1e-3,), "batch_size": 4, "steps": 6, "evaluate_every": 3} | recipe
    return Tuned("full", model, parameters, rows_of(backbone, data_file), Recipe(**fields), "accuracy")


def test_an_untuned_model_scores_labels_as_the_frozen_backbone_does(folder: Path) -> None:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, _ = load_checkpoint(folder, torch.float32)
    labels, (ids, _) = LabelWords.of(backbone, WORDS), backbone.tokenize(TEXTS, 64)
    expected = Labeller(backbone, Prompts.bare(), labels).label(Inputs(backbone, ids))
    torch.testing.assert_close(label_scores(model.eval(), ids, labels), expected, atol=1e-3, rtol=1e-4)


def test_a_step_is_torchs_adamw(folder: Path, data_file: Path) -> None:
    mine = begun(folder, data_file, warmup=0, schedule="constant", clip=None, steps=2)
    other = begun(folder, data_file, warmup=0, schedule="constant", clip=None, steps=2)
    optimizer = torch.optim.AdamW(other.parameters.values(), lr=1e-3, weight_decay=0.0)
    chosen: list[list[int]] = []
    original = tuned_module.batching.endless

    def recorded(*arguments, **options):
        for batch in original(*arguments, **options):
            chosen.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_module.batching, "endless", recorded)
        mine.step(0, 0.0)
    rows = other.rows
    losses, labels = tuned_module.piece_losses(
        other.model,
        [rows.training[index] for index in chosen[0]],
        [rows.labels.targets(rows.answers)[index] for index in chosen[0]],
        rows.labels.lead_in,
    )
    (losses.sum() / (labels != -100).sum()).backward()
    optimizer.step()
    assert mine.loss == pytest.approx(float(losses.detach().sum() / (labels != -100).sum()), rel=1e-5)
    for name, parameter in other.parameters.items():
        torch.testing.assert_close(mine.parameters[name], parameter, atol=2e-5, rtol=1e-3)


def test_it_learns_what_is_to_be_learnt_and_keeps_the_best(folder: Path, data_file: Path, tmp_path: Path) -> None:
    tuned = begun(folder, data_file, steps=60, evaluate_every=20, learning_rates=(1e-2,), patience=None)
    Loop(tmp_path, tuned, tuned.budget, "again").run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line["dev_score"] for line in lines if "dev_score" in line]
    assert tuned.best.score == max(scores) > scores[0]
    with torch.no_grad():
        for name, parameter in tuned.parameters.items():
            parameter.copy_(tuned.kept[name])
    again = label_scores(tuned.model, tuned.rows.development, tuned.rows.labels)
    assert float((again.argmax(-1) == tuned.rows.gold).float().mean()) == pytest.approx(tuned.best.score)


def test_interrupted_and_resumed_it_ends_where_it_would_have_ended(
    checkpoint_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parted"):
        (tmp_path / name).mkdir()
    whole = begun(checkpoint_folder, data_file)
    Loop(tmp_path / "whole", whole, whole.budget, "again").run()
    parted = begun(checkpoint_folder, data_file)
    step = parted.step

    def until_the_third(number: int, done: float) -> int:
        if number == 3:
            loop.stop = lambda: True  # type: ignore[assignment]
        return step(number, done)

    loop = Loop(tmp_path / "parted", parted, parted.budget, "again")
    monkeypatch.setattr(parted, "step", until_the_third)
    with pytest.raises(Interrupted):
        loop.run()
    resumed = begun(checkpoint_folder, data_file)
    Loop(tmp_path / "parted", resumed, resumed.budget, "again").run()
    for name, parameter in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], parameter), name

from __future__ import annotations

from pathlib import Path

import pytest

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.baselines import weights
from preface.baselines.column import Setting
from preface.baselines.weights import Weights
from preface.errors import UserError
from preface.options import validated
from preface.tasks.options import DataOptions
from preface.tuning.tunable import RATES

FIELDS = {"train_task": "film", "tuning": "bitfit", "seeds": 2, "steps": 2, "batch_size": 4, "train_rows": 40}


@pytest.fixture
def setting(checkpoint_folder: Path, tmp_path: Path) -> Setting:
    backbone: Backbone = load_backbone(checkpoint_folder, dtype="float32", device="cpu")
    return Setting(tmp_path / "out", DataOptions(), backbone=backbone)


def column(setting: Setting, **fields) -> Weights:
    return validated(Weights, {"backbone": setting._given.name, **FIELDS, **fields})  # type: ignore[union-attr]


def test_a_cell_for_each_seed_of_the_best_rate_and_nothing_trained_twice(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = column(setting, learning_rates=[1e-4, 1e-2], search={"steps": 1})
    cells = list(tuned.cells(setting, [setting.task("film"), setting.task("posts")]))
    assert [[cell.eval_task for cell in found] for found in cells] == [["film", "film"], ["posts", "posts"]]
    assert [cell.seed for cell in cells[0]] == [0, 1]
    (rate,) = {cell.details["learning_rate"] for found in cells for cell in found}
    assert sorted(path.name for path in (setting.folder / "search" / "BitFit").iterdir()) == [
        "lr0.0001-seed0",
        "lr0.01-seed0",
    ]
    assert sorted(path.name for path in (setting.folder / "train" / "BitFit").iterdir()) == [
        f"lr{rate:g}-seed0",
        f"lr{rate:g}-seed1",
    ]

    def no_training(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(weights, "Loop", no_training)
    again = list(tuned.cells(setting, [setting.task("film")]))
    assert [cell.value for cell in again[0]] == [cell.value for cell in cells[0]]


def test_rates_are_those_of_what_is_tuned_unless_some_are_given(setting: Setting) -> None:
    assert column(setting, tuning="lora").recipe.learning_rates == RATES["lora"]
    assert column(setting, learning_rates=[0.5]).recipe.learning_rates == (0.5,)
    assert column(setting, tuning="full").label == "full tuning"
    with pytest.raises(UserError, match="tuning"):
        column(setting, tuning="everything")


def test_damaged_weights_are_named(setting: Setting) -> None:
    tuned = column(setting, learning_rates=[1e-3], seeds=1)
    list(tuned.cells(setting, [setting.task("film")]))
    (file,) = setting.folder.glob("train/BitFit/*/weights/weights.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"weights\.safetensors was cut off or altered"):
        list(tuned.cells(setting, [setting.task("film")]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 4}, "rank: is of lora, not of bitfit"),
        ({"width": 4}, "width: is of adapters, not of bitfit"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: is for prompts alone"),
    ],
)
def test_what_would_do_nothing_is_refused(setting: Setting, fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        column(setting, **fields)


def test_peft_is_looked_for_before_anything_is_trained(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preface.tuning.tunable.find_spec", lambda name: None)
    with pytest.raises(UserError, match="LoRA: needs PEFT"):
        column(setting, tuning="lora").check(setting, [setting.task("film")])

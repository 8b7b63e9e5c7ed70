from __future__ import annotations

import json
from pathlib import Path

import pytest

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.baselines import weights
from preface.baselines.column import Setting
from preface.baselines.weights import Weights
from preface.errors import UserError
from preface.options import validated
from preface.tasks.metric import metric
from preface.tasks.options import DataOptions
from preface.tuning.folds import Chosen
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
    (stored,) = {cell.details["stored_bytes"] for found in cells for cell in found}
    assert 0 <= stored - 4 * cells[0][0].trained_parameters < 10_000  # names and sizes
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


def test_each_draw_of_a_few_rows_has_its_own_rate(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train_rows": None, "shots": 4, "folds": 2}
    tuned = column(setting, learning_rates=[1e-4, 1e-2], **few)
    tasks = [setting.task("film"), setting.task("posts")]
    tuned.check(setting, tasks)
    cells = list(tuned.cells(setting, tasks))
    assert [[cell.seed for cell in found] for found in cells] == [[0, 1], [0, 1]]
    assert not any("learning_rate" in cell.details for found in cells for cell in found)
    folder = setting.folder / "train" / "BitFit"
    for draw in (0, 1):
        chosen = Chosen.read(folder / f"draw{draw}")
        assert chosen is not None
        assert len(chosen.predictions) == 8
        assert cells[0][draw].details["development_score"] == chosen.score
    monkeypatch.setattr(weights, "Loop", None)
    monkeypatch.setattr(weights, "cross_validated", None)
    again = list(tuned.cells(setting, tasks[:1]))
    assert [cell.value for cell in again[0]] == [cell.value for cell in cells[0]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"shots": 4}, "give folds too"), ({"folds": 2}, "folds of tuned weights go with shots")],
)
def test_shots_and_folds_go_together(setting: Setting, fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        column(setting, train_rows=None, **fields).check(setting, [setting.task("film")])


def test_rates_are_those_of_what_is_tuned_unless_some_are_given(setting: Setting) -> None:
    assert column(setting, tuning="lora").recipe.learning_rates == RATES["lora"]
    assert column(setting, learning_rates=[0.5]).recipe.learning_rates == (0.5,)
    assert column(setting, tuning="full", optimizer="adafactor").recipe.learning_rates == RATES["full"]
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
    monkeypatch.setattr("preface.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match="LoRA: needs PEFT"):
        column(setting, tuning="lora").check(setting, [setting.task("film")])


@pytest.fixture
def written(checkpoint_folder: Path, tmp_path: Path) -> tuple[Setting, str]:
    """A setting, and a data file whose answers are free text."""
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"the thing number {i}", "answer": ["the green", "red"]} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    backbone = load_backbone(checkpoint_folder, dtype="float32", device="cpu")
    data = DataOptions(input=("text",), label="answer", free_text=True)
    return Setting(tmp_path / "out", data, backbone=backbone), str(path)


def test_cells_of_free_text_are_of_what_is_written(written: tuple[Setting, str]) -> None:
    setting, path = written
    fields = {"tuning": "full", "seeds": 1, "learning_rates": [1e-2], "steps": 20, "evaluate_every": 10}
    tuned = column(setting, train_task=path, train_rows=None, **fields)
    task = setting.task(path)
    tuned.check(setting, [task])
    ((cell,),) = tuned.cells(setting, [task])
    assert (cell.metric, cell.n, cell.details["scoring"]) == ("exact_text+text_f1", 40, "generate")
    assert "confusion" not in cell.details
    lines = [json.loads(line) for line in Path(cell.details["predictions"]).read_text().splitlines()]
    assert all(line["gold"] == ["the green", "red"] and line["probabilities"] is None for line in lines)
    said = [line["label"] for line in lines]
    assert cell.details["metrics"] == {
        name: pytest.approx(metric(name, [("the green", "red")] * 40, said)) for name in ("exact_text", "text_f1")
    }
    assert cell.value == pytest.approx(sum(cell.details["metrics"].values()) / 2)
    assert cell.value > 0  # of the tuned weights: the random ones write nothing right


def test_labels_and_free_text_do_not_mix(written: tuple[Setting, str]) -> None:
    setting, path = written
    for trained, other in ((path, "film"), ("film", path)):
        tuned = column(setting, train_task=trained)
        with pytest.raises(UserError, match=r"rows\.jsonl are free text, those of film are labels"):
            tuned.check(setting, [setting.task(other)])


def test_free_text_has_no_classes_to_weigh(written: tuple[Setting, str]) -> None:
    setting, path = written
    with pytest.raises(UserError, match="class-weights balanced: the task's answers are free text"):
        column(setting, train_task=path, class_weights="balanced").check(setting, [setting.task(path)])


def test_computes_in_the_precision_of_the_backbone(checkpoint_folder: Path, tmp_path: Path) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(checkpoint_folder, dtype=dtype, device="cpu")
        there = Setting(tmp_path / dtype, DataOptions(), backbone=backbone)
        tuned = column(there, tuning="full", seeds=1, learning_rates=[1e-3])
        ((cell,),) = tuned.cells(there, [there.task("film")])
        assert cell.details["computed"].startswith(dtype)
        found[dtype] = Path(cell.details["predictions"]).read_text()
    assert found["float32"] != found["bfloat16"]

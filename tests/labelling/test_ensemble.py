from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.backbones.load import load_checkpoint
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.methods.warp import Warp
from preface.records.card import load_prompt
from preface.records.run import Run

TEXTS = ["a fine warm film", "dull, cold and long", "one more of these", "it is what it is"]


@pytest.fixture(scope="module")
def runs(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three prefixes of 4 and a prompt of 3."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {"steps": 4, "batch_size": 8}
    return [
        preface.train(
            nano, "film", PrefixTuning(length=4), out=folder / "prefix", learning_rates=[3e-2], seeds=3, **shared
        ),
        preface.train(nano, "film", PromptTuning(length=3), out=folder / "prompt", learning_rates=[0.3], **shared),
    ]


def alone(runs: list[Run]) -> list[list[dict]]:
    """What each prompt says by itself."""
    folders = [run.folder / "prompts" / f"{member.index:02d}" for run in runs for member in run.members]
    return [list(preface.predict(folder, TEXTS, backbone=runs[0].backbone)) for folder in folders]


def test_predicts_the_mean_of_what_its_prompts_say_alone(runs: list[Run], tmp_path: Path) -> None:
    preface.ensemble(runs, tmp_path / "all")
    together = list(preface.predict(tmp_path / "all", TEXTS, backbone=runs[0].backbone))
    for place, line in enumerate(together):
        for word, probability in line["probabilities"].items():
            said = [lines[place]["probabilities"][word] for lines in alone(runs)]
            assert probability == pytest.approx(sum(said) / 4, abs=1e-4)


def test_votes(runs: list[Run], tmp_path: Path) -> None:
    preface.ensemble(runs[:1], tmp_path / "all", combine="vote")
    for place, line in enumerate(preface.predict(tmp_path / "all", TEXTS, backbone=runs[0].backbone)):
        votes = Counter(lines[place]["label"] for lines in alone(runs[:1]))
        assert line["label"] == votes.most_common(1)[0][0]


def test_each_way_is_measured_beside_its_prompts_and_evaluate_agrees(runs: list[Run], tmp_path: Path) -> None:
    cells = preface.ensemble(runs, tmp_path / "all", on=["film", "posts"], combine="weighted")
    ways = ["the best alone", "majority vote", "mean probability", "fitted weights"]
    assert [cell.method for cell in cells] == ["a prompt alone"] * 4 + ways + ["a prompt alone"] * 4 + ways
    singles = [cell.value for cell in cells if cell.eval_task == "posts" and cell.method == "a prompt alone"]
    evaluated = [
        preface.evaluate(run, on=["posts"], prompts="rate", out=tmp_path / str(number))
        for number, run in enumerate(runs)
    ]
    assert singles == pytest.approx([cell.value for found in evaluated for cell in found], abs=0.01)
    (again,) = preface.evaluate(tmp_path / "all", on=["posts"], backbone=runs[0].backbone)
    (first,) = [cell for cell in cells if cell.eval_task == "posts" and cell.method == "fitted weights"]
    assert again.value == pytest.approx(first.value, abs=0.01)
    assert again.method == "ensemble"
    assert again.details["members"] == 4
    assert again.details["stored_bytes"] == (tmp_path / "all" / "prompt" / "prompt.safetensors").stat().st_size
    assert first.details["stored_bytes"] == sum(cell.details["stored_bytes"] for cell in cells[:4])
    assert first.details["stored_bytes"] == pytest.approx(again.details["stored_bytes"], rel=0.02)  # a head each
    assert again.trained_parameters == sum(run.result.trained_parameters * len(run.members) for run in runs)


def test_says_that_folds_trained_on_the_rows_which_weights_are_fitted_on(
    runs: list[Run], nano: Backbone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preface.ensemble(runs, tmp_path / "apart")
    assert "folds" not in capfd.readouterr().err
    folds = preface.train(
        nano,
        "film",
        PrefixTuning(length=2),
        out=tmp_path / "run",
        learning_rates=[0.03],
        steps=2,
        batch_size=4,
        folds=2,
        seeds=2,
        shots=4,
    )
    preface.ensemble([folds.folder], tmp_path / "all")
    assert "runs with folds were trained on the development rows too" in capfd.readouterr().err


def test_costs_are_measured_on_development_rows_and_copies_counted(
    runs: list[Run], nano: Backbone, tmp_path: Path
) -> None:
    every = [cell.details.get("costs") for cell in preface.ensemble(runs, tmp_path / "all")]
    assert every[:5] == [None] * 5  # of prompts alone
    assert every[5] == every[6] == every[7]
    costs = every[5]
    assert costs is not None
    assert costs["rows"] == 64
    assert costs["copies"] == 4 * 4 * sum(
        parameter.numel() for parameter in load_checkpoint("nano", torch.float32)[0].parameters()
    )
    assert costs["together"] > 0
    assert costs["apart"] > 0


def trec(folder: Path) -> Path:
    (folder / "trec").mkdir()
    for name in ("train", "test"):
        lines = [{"text": f"{name} {i}", "label": i % 6} for i in range(12)]
        (folder / "trec" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_nothing_beside_it_is_lost(runs: list[Run], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    preface.ensemble(runs, tmp_path)
    preface.ensemble(runs, tmp_path, combine="vote")  # another in its place
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load_prompt(tmp_path).card.ensemble.combine == "vote"  # type: ignore[union-attr]


def test_what_cannot_be_an_ensemble_is_said(runs: list[Run], nano: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs two prompts, and there is 1"):
        preface.ensemble(runs[1:], tmp_path / "one")
    with pytest.raises(UserError, match="combine sum: one of"):
        preface.ensemble(runs, tmp_path / "sum", combine="sum")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a run is there"):
        preface.ensemble(runs, runs[0].folder)
    with pytest.raises(UserError, match="a prompt is there"):
        preface.ensemble(runs, runs[0].folder / "prompt")
    with pytest.raises(UserError, match="not among the words that the prompt was trained for"):
        preface.ensemble(runs, tmp_path / "labels", on=["trec"], data=trec(tmp_path))
    with pytest.raises(UserError, match="film is named twice"):
        preface.ensemble(runs, tmp_path / "twice", on=["film", "film"])
    other = preface.train(
        nano, "film", PrefixTuning(length=2), out=tmp_path / "other", learning_rates=[1e-2], steps=1,
        label_words={"negative": "bad", "positive": "good"},
    )  # fmt: skip
    with pytest.raises(UserError, match="has another label words"):
        preface.ensemble([runs[0], other], tmp_path / "mixed")
    preface.ensemble(runs, tmp_path / "all")
    with pytest.raises(UserError, match="is an ensemble itself"):
        preface.ensemble([tmp_path / "all", runs[0]], tmp_path / "nested")
    with pytest.raises(UserError, match="is an ensemble; give one of the prompts"):
        preface.train(nano, "film", PrefixTuning(length=4, init=f"prompt:{tmp_path / 'all'}"), out=tmp_path / "begun")
    with pytest.raises(UserError, match="an ensemble writes no text of its own"):
        preface.evaluate(tmp_path / "all", on=["posts"], scoring="generate", backbone=nano)


def test_no_prompt_is_in_it_twice(runs: list[Run], nano: Backbone, tmp_path: Path) -> None:
    prefix = runs[0].folder
    with pytest.raises(UserError, match=r"prefix/prompts/\d\d: is given twice; an ensemble needs different"):
        preface.ensemble([runs[0], prefix.parent / "prefix"], tmp_path / "twice")
    with pytest.raises(
        UserError, match=r"prefix/prompt: is the same prompt as .*prefix/prompts/\d\d; an ensemble needs"
    ):
        preface.ensemble([runs[0], prefix / "prompt"], tmp_path / "copied", backbone=nano)
    shutil.copytree(prefix, tmp_path / "copy")
    with pytest.raises(UserError, match=r"copy/prompts/\d\d: is the same prompt as .*prefix/prompts/\d\d"):
        preface.ensemble([runs[0], tmp_path / "copy"], tmp_path / "copied")
    untrained = preface.train(
        nano, "film", PromptTuning(length=2), out=tmp_path / "run", learning_rates=[1e3], seeds=2, steps=1, batch_size=4
    )
    with pytest.raises(UserError, match=r"01: is the same prompt as .*00, neither having been trained"):
        preface.ensemble([untrained], tmp_path / "untrained")
    assert not any((tmp_path / name).exists() for name in ("twice", "copied", "untrained"))


def test_label_vectors_and_label_words_are_told_apart_by_name(runs: list[Run], nano: Backbone, tmp_path: Path) -> None:
    warp = preface.train(nano, "film", Warp(length=3), out=tmp_path / "warp", learning_rates=[1e-2], steps=1, seeds=2)
    for mixed in ([runs[1], warp], [warp, runs[1]]):
        with pytest.raises(
            UserError, match=r"warp/prompts/\d\d: answers with label vectors \(warp\), and .*with label words"
        ):
            preface.ensemble(mixed, tmp_path / "mixed")


def test_what_cannot_be_measured_is_said_before_anything_is_saved(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sst2"):
        preface.ensemble(runs, tmp_path / "all", on=["film", "sst2"], data=tmp_path)
    with pytest.raises(UserError, match="not among the words that the prompt was trained for"):
        preface.ensemble(runs, tmp_path / "all", on=["trec"], data=trec(tmp_path))
    assert not (tmp_path / "all").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="not a list of Preface's cells"):
        preface.ensemble(runs, tmp_path / "other")
    assert not (tmp_path / "other" / "prompt").exists()


def test_a_damaged_one_is_named(runs: list[Run], tmp_path: Path) -> None:
    preface.ensemble(runs, tmp_path / "all")
    assert load_prompt(tmp_path / "all").prompts.size == 4
    file = tmp_path / "all" / "prompt" / "prompt.json"
    card = json.loads(file.read_text())
    card["ensemble"]["weights"] = [1.0]
    file.write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"prompt\.json was altered"):
        load_prompt(tmp_path / "all")

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.card import Ensemble, Member, load_prompt
from preface.records.push import model_page, push, without_folders
from preface.records.results import Cell, write_cells
from preface.tasks import load_task
from tests.cli.conftest import in_process

TOKEN = "hf_stand_in"


def test_what_is_pushed_comes_back_and_answers_alike(
    hub: dict[str, dict[str, bytes]], prompt: Path, nano: Backbone, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, said, heard = in_process(["push", prompt, "somebody/mine"], capsys, monkeypatch)
    assert code == 0, heard
    assert said.strip().endswith("/somebody/mine")
    assert sorted(hub["somebody/mine"]) == ["README.md", "prompt.json", "prompt.safetensors"]
    expected = list(preface.predict(prompt, ["a fine film"], backbone=nano))
    assert list(preface.predict("hub:somebody/mine", ["a fine film"], backbone=nano)) == expected
    push(prompt, "hub:somebody/mine")  # again, in its place
    everything = b"".join(hub["somebody/mine"].values())
    assert TOKEN.encode() not in everything
    assert str(prompt).encode() not in everything


def test_scores_of_the_run_s_other_prompts_are_not_told(
    hub: dict[str, dict[str, bytes]], prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    cells = [
        Cell("nano", "prefix-tuning", "film", "film", "accuracy", value, 150, seed, 1, 1.0, details=details)
        for value, seed, details in (
            (0.801, 0, {"learning_rate": 0.1}),
            (0.702, 1, {"learning_rate": 0.1}),
            (0.603, 0, {"learning_rate": 0.3}),
        )
    ]
    write_cells(prompt / "evaluations" / "results.json", cells)
    push(prompt, "somebody/mine")  # seed 0 at the rate 0.1
    page = hub["somebody/mine"]["README.md"].decode()
    assert "| film | accuracy | 0.801 | 150 |" in page
    assert "0.702" not in page
    assert "0.603" not in page


def test_without_a_token_the_hub_s_reason_is_said(
    hub: dict[str, dict[str, bytes]], prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    with pytest.raises(UserError, match="hf auth login") as error:
        push(prompt, "somebody/mine")
    assert "hf_wrong_secret" not in str(error.value)
    assert "somebody/mine" not in hub


def test_no_folder_of_this_machine_is_told(prompt: Path) -> None:
    card = load_prompt(prompt).card
    content = card.as_json()
    content["backbone"] = "/home/me/models/own"
    content["method"]["config"]["init"] = "prompt:/home/me/runs/first"
    content["method"]["config"]["imported"] = "/home/me/sst2.npy"
    content["task"]["source"]["files"] = {"parts": {"train": ["/home/me/data/train.csv"], "test": ["test.csv"]}}
    content["ensemble"] = Ensemble(
        combine="mean", weights=(1.0,), members=(card.member,), runs=("/home/me/runs/a",)
    ).as_json()  # fmt: skip
    public = without_folders(type(card).model_validate(content))
    assert "/home/me" not in json.dumps(public.as_json())
    assert public.backbone == "own"
    assert public.method.config["init"] == "prompt:first"
    assert public.method.config["imported"] == "sst2.npy"
    assert public.task.source.files.parts["train"] == ("train.csv",)
    assert without_folders(card) == card


def test_of_own_data_files_their_names_alone_are_told(prompt: Path, tmp_path: Path) -> None:
    home = tmp_path / "home of me"
    home.mkdir()
    for name in ("a.csv", "b.csv"):
        (home / name).write_text("text,label\nfine,good\ndull,bad\n")
    files = {"format": "txt", "parts": {"train": f"{home}/texts.txt"}, "labels": {"train": f"{home}/labels.txt"}}
    definition = {
        "name": "t",
        "source": {"hub": {"id": str(home), "splits": {"train": "train"}}, "files": files},
        "fields": {"input": "text", "label": "label"},
        "labels": {"good": "good", "bad": "bad"},
        "splits": {"train": {"part": "train"}},
    }
    (home / "t.yaml").write_text(yaml.safe_dump(definition))
    card = load_prompt(prompt).card
    for reference in (f"{home}/a.csv", f"{home}/a.csv+{home}/b.csv", f"{home}/t.yaml"):
        public = without_folders(card.model_copy(update={"task": load_task(reference)})).as_json()
        assert str(tmp_path) not in json.dumps(public)
    assert "own data from a.csv" in json.dumps(
        without_folders(card.model_copy(update={"task": load_task(home / "a.csv")})).as_json()
    )
    command = shlex.join(
        [
            "preface",
            "train",
            "--task",
            f"{home}/a.csv+{home}/b.csv:cue=Answer:",
            f"--init=prompt:{home}/film",
            "--cue",
            "a/b",
        ]
    )
    page = model_page(card, "somebody/film", [], command)
    assert "preface train --task a.csv+b.csv:cue=Answer: --init=prompt:film --cue a/b" in page


def test_the_page_says_what_the_hub_and_a_reader_want(prompt: Path) -> None:
    card = load_prompt(prompt).card.model_copy(update={"backbone": "google/t5-v1_1-base"})
    cells = [Cell("nano", "prefix-tuning", "film", "reviews", "accuracy", 0.8765, 150, 0, 1, 1.0)]
    page = model_page(card, "somebody/film", cells, "preface train --task film")
    head = yaml.safe_load(page.split("---")[1])
    assert head["base_model"] == "google/t5-v1_1-base"
    assert head["library_name"] == "preface"
    result = head["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "reviews"
    assert result["metrics"][0]["value"] == 0.8765
    assert "| reviews | accuracy | 0.876 | 150 |" in page or "| reviews | accuracy | 0.877 | 150 |" in page
    otherwise = replace(cells[0], split="validation", details={"scoring": "rank", "calibration": "batch"})
    assert "| reviews | accuracy, on validation, calibration batch |" in model_page(
        card, "somebody/film", [otherwise], ""
    )
    for words in ("preface predict hub:somebody/film", "preface train --task film", "negative, positive"):
        assert words in page
    assert re.search(r"\| trained parameters \| [\d,]+ \|", page)


def test_an_ensemble_s_page_does_not_have_its_best_member_s_score(prompt: Path) -> None:
    card = load_prompt(prompt).card
    card = card.model_copy(update={"member": Member(0, 0.1, 0, 0.85, 0.3, 10)})
    assert "development split | accuracy 0.850" in model_page(card, "somebody/film", [], None)
    of_several = Ensemble(combine="mean", weights=(1.0,), members=(card.member,), runs=("a",))
    page = model_page(card.model_copy(update={"ensemble": of_several}), "somebody/film", [], None)
    assert "development split" not in page


def test_a_prompt_that_was_trained_elsewhere_has_no_development_score(prompt: Path) -> None:
    card = load_prompt(prompt).card
    assert "development split" in model_page(card, "somebody/film", [], None)
    page = model_page(card.model_copy(update={"member": None}), "somebody/film", [], None)
    assert "development split" not in page


def test_the_command_on_the_page_tells_of_no_folder_of_this_machine(prompt: Path) -> None:
    made = "preface train --task /home/me/data/own.csv --data=/home/me/data --out '/home/me/my runs/film' --steps 3"
    page = model_page(load_prompt(prompt).card, "somebody/film", [], made)
    assert "/home/me" not in page
    assert "preface train --task own.csv --data=data --out film --steps 3" in page


def test_a_prompt_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompt here"):
        push(tmp_path, "somebody/none")

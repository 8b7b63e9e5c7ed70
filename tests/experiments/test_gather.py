from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import preface
from preface.errors import UserError
from preface.records.results import Cell, write_cells


def cell(method: str, task: str, value: float, seed: int | None = 0) -> Cell:
    return Cell("nano", method, "film", task, "accuracy", value, 150, seed, 10, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two/evaluations", "none"):
        (tmp_path / name).mkdir(parents=True)
    write_cells(tmp_path / "one" / "results.json", [cell("prefix <b>", "film", 0.871), cell("tf-idf", "film", 0.7)])
    write_cells(tmp_path / "two" / "evaluations" / "results.json", [cell("prompt", "posts", 0.653)])
    write_cells(tmp_path / "none" / "results.json", [])
    fields = {"title": "How long?", "notes": ["chosen on development rows"]}
    (tmp_path / "one" / "experiment.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path


def test_everything_below_a_folder_is_on_the_page(folder: Path) -> None:
    found = preface.report([folder], folder / "page.html")
    assert found == [folder / "one", folder / "two" / "evaluations"]
    page = (folder / "page.html").read_text()
    for said in ("How long?", "87.1", "65.3", "chosen on development rows", "prefix &lt;b&gt;"):
        assert said in page
    assert "<script" not in page
    assert page.count("<svg") == 2


def test_a_folder_named_twice_is_there_once(folder: Path) -> None:
    assert preface.report([folder, folder / "one"], folder / "page.html").count(folder / "one") == 1


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results\.json below"):
        preface.report([tmp_path], tmp_path / "page.html")


def test_a_folder_is_not_replaced_by_the_page(folder: Path) -> None:
    with pytest.raises(UserError, match="one: is a folder; name the file to write"):
        preface.report([folder], folder / "one")
    assert (folder / "one" / "results.json").exists()


def test_damaged_results_are_named(folder: Path) -> None:
    (folder / "one" / "results.json").write_text("{")
    with pytest.raises(UserError, match="not a list of Preface's cells"):
        preface.report([folder], folder / "page.html")


def test_what_an_experiment_was_made_of_is_not_listed_again(folder: Path) -> None:
    (folder / "one" / "train" / "prefix" / "evaluations").mkdir(parents=True)
    write_cells(folder / "one" / "train" / "prefix" / "evaluations" / "results.json", [cell("prefix", "film", 0.9)])
    assert preface.report([folder], folder / "page.html") == [folder / "one", folder / "two" / "evaluations"]

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import preface
from preface.errors import UserError
from preface.experiments.report import SAID, write_report
from preface.records.results import Cell, write_cells

RUN = Path(__file__).parents[1] / "records" / "fixtures" / "run"


def cell(method: str, task: str, value: float, seed: int | None = 0, **details: Any) -> Cell:
    return Cell("nano", method, "film", task, "accuracy", value, 150, seed, 10, 1.0, details=details)


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


def test_only_a_page_is_replaced_by_the_page(folder: Path) -> None:
    data = folder / "mine.csv"
    data.write_text("text,label\n")
    with pytest.raises(UserError, match=r"mine\.csv: is a file that is no page, and would be lost; give another --out"):
        preface.report([folder], data)
    assert data.read_text() == "text,label\n"
    for _ in range(2):
        assert preface.report([folder], folder / "page")


def test_damaged_results_are_named(folder: Path) -> None:
    (folder / "one" / "results.json").write_text("{")
    with pytest.raises(UserError, match="not a list of Preface's cells"):
        preface.report([folder], folder / "page.html")


def test_what_an_experiment_was_made_of_is_not_listed_again(folder: Path) -> None:
    (folder / "one" / "train" / "prefix" / "evaluations").mkdir(parents=True)
    write_cells(folder / "one" / "train" / "prefix" / "evaluations" / "results.json", [cell("prefix", "film", 0.9)])
    assert preface.report([folder], folder / "page.html") == [folder / "one", folder / "two" / "evaluations"]


def body(page: Path, since: str, until: str) -> str:
    """A part of a page, without the ids and headings that depend on where it stands."""
    text = re.sub(
        r'(id|aria-describedby|href)="#?[^"]*"|</?h[123][^>]*>|aria-label="Results[^"]*"', "", page.read_text()
    )
    return text[text.index(since) : text.index(until)]


def test_a_section_says_all_that_the_experiment_s_own_page_says(tmp_path: Path) -> None:
    columns = ("prefix", "prompt", "weights", "adapters")
    cells = [
        Cell("nano", name, "film", task, "accuracy", 0.8 - size / 1e3, 150, 0, size, 1.0)
        for size, name in enumerate(columns, 1)
        for task in ("film", "posts")
    ]
    write_report(cells, tmp_path / "runs" / "one", "How many?", ["from the data"], ["preface compare one"])
    preface.report([tmp_path / "runs"], tmp_path / "page.html")
    own, gathered = tmp_path / "runs" / "one" / "report.html", tmp_path / "page.html"
    for said in ("2 evaluations, 4 columns. Highest mean", "from the data", "preface compare one", "torch"):
        assert said in gathered.read_text()
    assert own.read_text().count("<svg") == gathered.read_text().count("<svg") == 2  # dots and costs
    parts = [body(page, "2 evaluations", "</main>") for page in (own, gathered)]
    assert [" ".join(part.split()) for part in parts[:1]] == [" ".join(part.split()) for part in parts[1:]]


def test_an_experiment_that_is_not_finished_has_the_notes_that_follow_from_its_cells(folder: Path) -> None:
    cells = [cell("zero", "film", 0.5, None, backbone_saw=["imdb"], instruction="Good?", instruction_chosen_on="dev")]
    write_cells(folder / "one" / "results.json", cells)
    for damaged in ("{", "[]"):
        (folder / "one" / SAID).write_text(damaged)
        preface.report([folder], folder / "page.html")
        page = unescape((folder / "page.html").read_text())
        for said in ("How long?", "chosen on development rows", "labelled examples of imdb", "worded 'Good?'"):
            assert said in page


def test_pages_that_lie_there_are_linked(folder: Path) -> None:
    (folder / "two" / "run.json").write_text("{}")
    (folder / "page.html").touch()  # of the last time
    pages = ("alike.html", "one/report.html", "two/near & far.html", "two/evaluations/posts.html")
    for page in pages:
        (folder / page).touch()
    (folder / "out").mkdir()
    for out in (folder / "page.html", folder / "out" / "page.html"):
        preface.report([folder], out)
        sections = re.split("<h2 ", out.read_text())
        links = {re.split("[<>]", part)[1]: re.findall('href="([^#"]*)"', part) for part in sections[1:]}
        found = {
            title: {(out.parent / unquote(unescape(link))).resolve() for link in some} for title, some in links.items()
        }
        assert found["How long?"] == {folder / "one/report.html"}
        assert found[str(folder / "two/evaluations")] == {folder / page for page in pages[2:]}
        others = {folder / "alike.html", folder / "page.html"} - {out}
        assert found["Other pages"] == others


def test_a_run_without_an_evaluation_is_named_with_what_comes_next(folder: Path) -> None:
    for name in ("new run", "begun", "one/train/prefix", "two"):  # of which the last two are in results
        shutil.copytree(RUN, folder / name, dirs_exist_ok=True)
    record = json.loads((folder / "begun" / "run.json").read_text())
    (folder / "begun" / "run.json").write_text(json.dumps(record | {"result": None, "finished": None}))
    (folder / "odd").mkdir()
    (folder / "odd" / "run.json").write_text("{")
    preface.report([folder], folder / "page.html")
    page = (folder / "page.html").read_text()
    lines = re.findall(r"<li>(.*)</li>", unescape(page[page.index('id="waiting"') :]))
    assert lines[0] == f"{folder}/begun: not finished. <code>preface train --resume {folder}/begun</code>"
    command = f"<code>preface evaluate '{folder}/new run'</code>"
    assert lines[1] == f"{folder}/new run: prefix-tuning on rows.jsonl, development accuracy 50.0. {command}"
    assert "odd/run.json: not readable" in lines[2]
    assert len(lines) == 3


def test_runs_alone_are_a_page_too(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "new")
    assert preface.report([tmp_path], tmp_path / "page.html") == []
    assert "Trained, not yet evaluated" in (tmp_path / "page.html").read_text()

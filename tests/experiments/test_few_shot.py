"""k rows of each label, drawn anew by each seed: the same rows for every column, and no development split."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import preface
from preface.backbones.base import Backbone
from preface.baselines.column import Setting
from preface.errors import UserError
from preface.experiments.spec import Experiment
from preface.experiments.table import pivot
from preface.labelling.wording import wordings
from preface.options import validated
from preface.records.results import read_cells
from preface.tasks import load_split, load_task
from preface.tasks.options import DataOptions
from preface.tasks.task import Instruction

SHOTS: dict[str, Any] = {
    "title": "few",
    "train_task": "film",
    "eval_tasks": ["posts"],
    "columns": [
        "zero-shot",
        {"method": "prefix-tuning", "name": "prefix", "length": 2, "folds": 2, "learning_rates": [0.01, 0.1]},
        {"kind": "in-context"},
        "tf-idf",
        "hidden-state",
    ],
    "vary": {"shots": [1, 4]},
    "seeds": 2,
    "recipe": {"batch_size": 4, "steps": 2, "evaluate_every": 1},
}


@pytest.fixture(scope="module")
def finished(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few") / "out"
    preface.compare_cross_domain(validated(Experiment, SHOTS), out=out, backbone=nano)
    return out


def test_every_column_has_a_cell_for_each_draw(finished: Path) -> None:
    cells = read_cells(finished / "results.json")
    columns = [
        f"{name} · shots {k}"
        for name in ("zero-shot", "prefix", "in-context", "tf-idf", "hidden-state")
        for k in (1, 4)
    ]
    assert {(cell.method, cell.seed) for cell in cells} == {(column, seed) for column in columns for seed in (0, 1)}
    assert (finished / "vary.png").stat().st_size > 0


def test_all_columns_draw_the_same_rows(finished: Path, tmp_path: Path) -> None:
    setting, film = Setting(tmp_path, DataOptions()), load_task("film")
    drawn = setting.drawn(film, 4, 1).examples
    labelled = {example.text for name in ("train", "validation") for example in load_split(film, name).examples}
    assert {example.text for example in drawn} <= labelled
    run = json.loads((finished / "train" / "prefix-shots-4" / "draw1" / "run.json").read_text())
    assert (run["shots"], run["draw"], run["splits"]["train"]["rows"]) == (4, 1, 8)
    said = (finished / "train" / "prefix-shots-4" / "draw1" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["gold"] for line in said] == [example.label for example in drawn]


def test_the_bare_model_s_wording_is_chosen_by_the_rows_of_the_draw_alone(
    finished: Path, nano: Backbone, tmp_path: Path
) -> None:
    film, setting = load_task("film"), Setting(tmp_path, DataOptions())

    def score(on: str | Path, wording: Instruction) -> float:
        (cell,) = preface.evaluate(None, [on], backbone=nano, instruction=wording)
        return cell.value

    cells = [cell for cell in read_cells(finished / "results.json") if cell.method.startswith("zero-shot")]
    for cell in cells:
        rows = tmp_path / f"{cell.method[-1]}-{cell.seed}.csv"
        with rows.open("w", newline="") as file:
            drawn = setting.drawn(film, int(cell.method[-1]), cell.seed or 0).examples
            csv.writer(file).writerows([("text", "label"), *((row.text, row.label) for row in drawn)])
        scores = {wording: score(rows, wording) for wording in wordings(film)}
        best = max(scores, key=lambda wording: scores[wording])  # of equals the first
        assert cell.details["instruction_drawn"] == best.template
        assert cell.value == score("posts", best)
    assert {len(entry.values) for entry in pivot(cells).rows[0].entries.values()} == {2}  # whatever wordings they chose
    assert "the rows of each of 2 draws chose its wording" in (finished / "report.html").read_text()


def test_all_that_read_with_the_model_cut_texts_alike(nano: Backbone, tmp_path: Path) -> None:
    def cut(most: int) -> dict[str, int]:
        columns = ["zero-shot", {"kind": "in-context", "shots": 1}, {"method": "prefix-tuning", "length": 2}]
        fields = {"columns": columns, "vary": {}, "seeds": 1, "recipe": {"steps": 1, "max_input_tokens": most}}
        cells = preface.compare_cross_domain(
            validated(Experiment, SHOTS | fields), out=tmp_path / str(most), backbone=nano
        )
        return {cell.method: cell.details["cut_inputs"] for cell in cells}

    found = cut(24)
    assert found["in-context"] == found["prefix-tuning"] > 0
    assert found["zero-shot"] > 0  # of texts with an instruction
    assert set(cut(512).values()) == {0}


def test_a_wording_that_is_given_is_chosen_by_no_rows(nano: Backbone, tmp_path: Path) -> None:
    columns = [{"kind": "zero-shot", "instruction": "Film: {text}"}]
    cells = preface.compare_cross_domain(
        validated(Experiment, SHOTS | {"columns": columns, "vary": {}, "recipe": {}}), out=tmp_path, backbone=nano
    )
    assert [(cell.method, cell.seed, cell.details["instruction"]) for cell in cells] == [
        ("zero-shot", None, "Film: {text}")
    ]


def test_tfidf_chooses_by_cross_validation(finished: Path, tmp_path: Path) -> None:
    drawn = Setting(tmp_path, DataOptions()).drawn(load_task("film"), 4, 0).examples
    labels = [example.label for example in drawn]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit([example.text for example in drawn])
    train = words.transform([example.text for example in drawn])
    models = [LogisticRegression(C=c, max_iter=1000) for c in (0.3, 1, 3, 10)]
    best = max(models, key=lambda model: cross_val_score(model, train, labels, cv=4).mean()).fit(train, labels)
    test = load_split("posts", "test").examples
    expected = best.score(words.transform([example.text for example in test]), [example.label for example in test])
    (found,) = [
        cell.value
        for cell in read_cells(finished / "results.json")
        if cell.method == "tf-idf · shots 4" and cell.seed == 0
    ]
    assert found == pytest.approx(expected)


def test_prompts_need_folds(nano: Backbone, tmp_path: Path) -> None:
    columns = [{"method": "prefix-tuning", "shots": 4}]
    experiment = validated(Experiment, SHOTS | {"columns": columns, "vary": {}})
    with pytest.raises(UserError, match="no development split to choose by; give folds too"):
        preface.compare_cross_domain(experiment, out=tmp_path / "out", backbone=nano)

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import preface
from preface.backbones.base import Backbone, Site
from preface.backbones.load import computed_in
from preface.baselines.column import Setting, Trained
from preface.baselines.zero_shot import ZeroShot
from preface.errors import UserError
from preface.experiments.cross_domain import majorities
from preface.experiments.notes import mixed, seen
from preface.experiments.prompt import Prompt
from preface.experiments.spec import SPECS, Experiment, load_experiment
from preface.methods import PrefixTuning
from preface.options import validated
from preface.records.results import Cell, read_cells
from preface.tasks import load_split
from preface.tasks.options import DataOptions
from preface.terminal.command import at_work
from preface.terminal.interrupt import Interrupted
from preface.tuning import population

SMALL = {
    "title": "small",
    "train_task": "film",
    "eval_tasks": ["film", "posts"],
    "columns": [
        "zero-shot",
        {"method": "prefix-tuning", "length": 2, "learning_rates": [0.001, 0.01]},
        {"method": "prompt-tuning", "length": 2, "learning_rates": [0.1]},
        "tf-idf",
    ],
    "seeds": 2,
    "search": {"steps": 2},
    "recipe": {"batch_size": 4, "steps": 4},
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def finished(nano: Backbone, spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "out"
    preface.compare_cross_domain(spec, out=out, backbone=nano)
    return out


def test_every_cell_is_there(finished: Path) -> None:
    cells = json.loads((finished / "results.json").read_text())
    keys = {(cell["method"], cell["eval_task"], cell["seed"]) for cell in cells}
    expected = {(method, task, None) for method in ("zero-shot", "tf-idf") for task in ("film", "posts")}
    trained = ("prefix-tuning", "prompt-tuning")
    expected |= {(method, task, seed) for method in trained for task in ("film", "posts") for seed in (0, 1)}
    assert keys == expected
    assert len(cells) == len(expected)
    fields = {"backbone", "method", "train_task", "eval_task", "metric", "value", "n", "seed", "seconds", "versions"}
    assert all(fields | {"trained_parameters"} <= set(cell) for cell in cells)
    for name in ("report.html", "table.md", "plot.png", "experiment.yaml"):
        assert (finished / name).stat().st_size > 0
    assert "Always naming the commonest answer" in (finished / "report.html").read_text()


def test_each_cell_says_in_what_precision_its_backbone_computed(finished: Path, nano: Backbone) -> None:
    cells = read_cells(finished / "results.json")
    way = computed_in(nano)
    assert {cell.method: cell.details.get("computed") for cell in cells} == {
        "zero-shot": way,
        "prefix-tuning": way,
        "prompt-tuning": way,
        "tf-idf": None,
    }
    assert way in (finished / "report.html").read_text()


def test_an_experiment_that_was_not_all_computed_alike_says_so(finished: Path) -> None:
    cells = read_cells(finished / "results.json")
    assert mixed(cells) == []
    elsewhere = [replace(cell, details=cell.details | {"computed": "float32 on a GPU"}) for cell in cells[:1]]
    (line,) = mixed([*elsewhere, *cells[1:]])
    assert f"{cells[0].method}: float32 on a GPU" in line


def test_the_rate_is_chosen_in_the_search(finished: Path) -> None:
    search = json.loads((finished / "search" / "prefix-tuning" / "run.json").read_text())
    chosen = json.loads((finished / "train" / "prefix-tuning" / "run.json").read_text())["recipe"]["learning_rates"]
    best = max(search["result"]["members"], key=lambda member: (member["score"], -member["loss"]))
    assert chosen == [best["learning_rate"]]
    assert not (finished / "search" / "prompt-tuning").exists()  # one rate leaves nothing to search


def test_tfidf_is_scikit_learn_s(finished: Path) -> None:
    def rows(task: str, split: str) -> tuple[list[str], list[str]]:
        examples = load_split(task, split).examples
        return [example.text for example in examples], [str(example.label) for example in examples]

    texts, labels = rows("film", "train")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts)
    candidates = [LogisticRegression(C=c, max_iter=1000).fit(words.transform(texts), labels) for c in (0.3, 1, 3, 10)]
    dev_texts, dev_labels = rows("film", "validation")
    best = max(candidates, key=lambda model: model.score(words.transform(dev_texts), dev_labels))
    test_texts, test_labels = rows("posts", "test")
    expected = best.score(words.transform(test_texts), test_labels)
    cells = json.loads((finished / "results.json").read_text())
    found = [c["value"] for c in cells if c["method"] == "tf-idf" and c["eval_task"] == "posts"]
    assert found == [pytest.approx(expected)]


def test_again_measures_nothing(finished: Path, nano: Backbone, spec: Path, monkeypatch: Any) -> None:
    before = (finished / "results.json").read_text()
    for module in ("baselines.zero_shot", "experiments.prompt"):
        monkeypatch.setattr(f"preface.{module}.evaluate", lambda *a, **k: pytest.fail("measured again"))
    monkeypatch.setattr("preface.experiments.prompt.train", lambda *a, **k: pytest.fail("trained again"))
    preface.compare_cross_domain(spec, out=finished, backbone=nano)
    assert (finished / "results.json").read_text() == before


def test_interrupted_it_goes_on(nano: Backbone, spec: Path, finished: Path, tmp_path: Path, monkeypatch: Any) -> None:
    step = population.Population.step

    def press(self, number, done):
        if isinstance(self.method, PrefixTuning) and len(self.recipe.learning_rates) == 1 and number == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, done)

    monkeypatch.setattr(population.Population, "step", press)
    with pytest.raises(Interrupted):
        preface.compare_cross_domain(spec, out=tmp_path / "o", backbone=nano)
    assert len(json.loads((tmp_path / "o" / "results.json").read_text())) == 2  # zero-shot is kept
    monkeypatch.setattr(population.Population, "step", step)
    preface.compare_cross_domain(spec, out=tmp_path / "o", backbone=nano)
    both = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "o", finished)]
    assert [cell["value"] for cell in both[0]] == [cell["value"] for cell in both[1]]


def test_a_slip_costs_nothing(nano: Backbone, spec: Path, tmp_path: Path) -> None:
    """Nothing is measured, and the folder is not claimed, before all that can be wrong was looked at."""
    out = tmp_path / "out"
    column = {"method": "prefix-tuning", "learning_rates": [0.01]}
    for change in (
        {"eval_tasks": ["film", "revews"]},
        {"eval_tasks": ["film", "film"]},
        {"train_task": None, "eval_tasks": ["film", "reviews"]},
        {"columns": [{**column, "lenght": 3}]},
        {"columns": [{**column, "batch_size": 0}]},
        {"columns": [column, column]},
        {"columns": [{**column, "name": "tf-idf"}, "tf-idf"]},
        {"columns": ["prefixtuning"]},
        {"columns": [{"kind": "tfidf"}]},
        {"columns": [{**column, "vary": {"lenght": [1, 2]}}]},
        {"vary": {"lenght": [1, 2]}},
        {"vary": {"length": []}},
        {"recipe": {"stepz": 3}},
        {"recipe": {"seeds": 3}},
        {"eval_tasks": ["tweets:neutral=keep"]},
    ):
        broken = tmp_path / "broken.yaml"
        broken.write_text(yaml.safe_dump(SMALL | change))
        with pytest.raises(UserError):
            preface.compare_cross_domain(broken, out=out, backbone=nano)
        assert not out.exists()


def test_notes_may_change(finished: Path, nano: Backbone, tmp_path: Path) -> None:
    file = tmp_path / "noted.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"title": "other words", "notes": ["a note"]}))
    preface.compare_cross_domain(file, out=finished, backbone=nano)
    assert "a note" in (finished / "report.html").read_text()


def test_another_experiment_does_not_get_mixed_in(finished: Path, nano: Backbone, spec: Path) -> None:
    with pytest.raises(UserError, match="another experiment"):
        preface.compare_cross_domain(spec, out=finished, backbone=nano, seeds=3)


@pytest.mark.parametrize("name", sorted(path.stem for path in SPECS.glob("*.yaml")))
def test_shipped_specs_are_whole(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.expanded()
    for own in experiment.parts().values() or [experiment]:
        for column in own.expanded():
            if isinstance(column, Trained):
                assert {*column.reads} <= {*preface.tasks.load_task(column.train_task).splits}
    for task in experiment.eval_tasks:
        preface.tasks.load_task(task)


def test_paper_a_is_the_paper_s_recipe() -> None:
    experiment = load_experiment("paper-a")
    assert experiment.backbone == "google-t5/t5-large"
    zero_shot, prefix, _ = experiment.expanded()
    assert isinstance(prefix, Prompt)
    assert prefix.recipe.batch_size == 16
    assert prefix.recipe.epochs == 5
    assert prefix.recipe.learning_rates == (1e-4,)
    sites = {name: Site(24, 16, 64, of="text") for name in ("encoder", "decoder", "cross")}
    large: Any = SimpleNamespace(name="t5-large", sites=sites, width=1024)
    assert prefix.method.counts(large).trained == 11_943_936
    assert isinstance(zero_shot, ZeroShot)
    assert zero_shot.backbone == "google/flan-t5-large"


@pytest.mark.parametrize("name", ["domain-shift-qa", "domain-shift-pairs"])
def test_the_domain_shifts_have_the_paper_s_settings(name: str) -> None:
    """Lester et al. 2021, section 3 and appendix A."""
    prompts = [
        column
        for column in load_experiment(name).expanded()
        if isinstance(column, Prompt) and column.base == "prompt-tuning"
    ]
    assert {prompt.backbone for prompt in prompts} == {"google/t5-large-lm-adapt", "google/t5-xxl-lm-adapt"}
    for prompt in prompts:
        recipe = prompt.recipe
        assert (prompt.method.length, prompt.method.init) == (100, "labels")
        assert (recipe.optimizer, recipe.schedule, recipe.learning_rates) == ("adafactor", "constant", (0.3,))
        assert (recipe.batch_size, recipe.steps, recipe.weight_decay, recipe.clip) == (32, 30_000, 1e-5, None)
        assert recipe.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("title: [", "no YAML"),
        ("just text", "a mapping"),
        ("title: x", "eval-tasks: Field required$"),
        ("colour: red", "title"),
    ],
)
def test_broken_specs(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=says):
        load_experiment(file)


def test_the_report_says_what_the_backbone_saw() -> None:
    common: dict[str, Any] = {"train_task": None, "eval_task": "film", "metric": "accuracy", "value": 0.5, "n": 2}
    common |= {"seed": None, "trained_parameters": 0, "seconds": 0.0}
    tuned = Cell(backbone="tuned", method="zero-shot", details={"backbone_saw": ["imdb", "cr"]}, **common)
    bare = Cell(backbone="bare", method="zero-shot", details={"backbone_saw": []}, **common)
    weights = Cell(backbone="tuned", method="BitFit", **common)  # says nothing of it
    (line,) = seen([tuned, bare, weights])
    assert line.startswith("tuned was itself trained on labelled examples of imdb, cr")


def test_a_constant_answer_is_scored_by_the_task_s_own_metric(tmp_path: Path) -> None:
    rows = [{"text": f"number {i}", "label": ("yes", "no")[i % 4 == 0]} for i in range(40)]  # three of four: yes
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "rare", "metric": "macro_f1", "labels": {"yes": "positive", "no": "negative"}}
    task |= {"fields": {"input": "text", "label": "label"}, "splits": {"test": {"part": "all"}}}
    task |= {"source": {"files": {"parts": {"all": "rows.jsonl"}}}}
    (tmp_path / "rare.yaml").write_text(yaml.safe_dump(task))
    fields = SMALL | {"eval_tasks": ["film", str(tmp_path / "rare.yaml")], "columns": ["tf-idf"]}
    experiment = validated(Experiment, fields)
    said = majorities(experiment, Setting(tmp_path, experiment.data))
    assert said.endswith(f"rare {100 * (2 * 0.75 / 1.75) / 2:.1f}.")  # F1 of yes, and 0 for no


def test_a_backbone_s_folder_is_loaded_once(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is written: a loaded one is called by its whole path."""
    monkeypatch.chdir(checkpoint_folder.parent)
    setting = Setting(tmp_path, DataOptions())
    assert setting.backbone(checkpoint_folder.name) is setting.backbone(f"./{checkpoint_folder.name}")


def test_a_report_shows_the_command_that_there_was(nano: Backbone, tmp_path: Path) -> None:
    fields = {"title": "t", "train_task": "film", "eval_tasks": ["film"], "columns": ["tf-idf"]}
    experiment = validated(Experiment, fields)
    preface.compare_cross_domain(experiment, out=tmp_path / "python", backbone=nano)
    with at_work(["compare", "cross-domain", "--recipe", "mine.yaml"]):
        preface.compare_cross_domain(experiment, out=tmp_path / "command", backbone=nano)
    assert "preface compare" not in (tmp_path / "python" / "report.html").read_text()
    assert "preface compare cross-domain --recipe mine.yaml" in (tmp_path / "command" / "report.html").read_text()

"""Columns as data: what a specification expands to, and what it says of a slip."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

import preface
from preface.baselines.column import Column, Setting
from preface.errors import UserError
from preface.experiments.matrix import measure
from preface.experiments.prompt import Prompt
from preface.experiments.spec import Experiment, kinds, load_experiment
from preface.methods import METHODS, PrefixTuning, PromptTuning
from preface.options import validated
from preface.records.results import Cell, read_cells
from preface.tasks import Task, load_task
from preface.tasks.options import DataOptions
from preface.tuning.recipe import Recipe
from preface.tuning.search import Search

MEASURED = Path(__file__).parents[2] / "docs/results/recipes"


def experiment(*columns: Any, **fields: Any) -> Experiment:
    given = {"title": "t", "train_task": "film", "eval_tasks": ["film", "posts"], "columns": columns}
    return validated(Experiment, given | fields)


def prompts(found: Experiment) -> list[Prompt]:
    return [column for column in found.expanded() if isinstance(column, Prompt)]


def test_a_name_is_a_method_or_a_kind() -> None:
    columns = experiment("zero-shot", "prompt-tuning", "prefix-tuning", "tf-idf").expanded()
    assert [column.label for column in columns] == ["zero-shot", "prompt-tuning", "prefix-tuning", "tf-idf"]
    assert [column.kind for column in columns] == ["zero-shot", "prompt", "prompt", "tf-idf"]


def test_a_field_goes_to_whom_it_belongs() -> None:
    column = {"method": "prefix-tuning", "length": 5, "sites": ["decoder"], "batch_size": 8, "train_rows": 50}
    (found,) = prompts(experiment(column, recipe={"batch_size": 16, "steps": 9}, seeds=2, backbone="b"))
    assert found.method == PrefixTuning(length=5, sites=("decoder",))
    assert (found.recipe.batch_size, found.recipe.steps, found.recipe.seeds) == (8, 9, (0, 1))
    assert (found.backbone, found.train_task, found.train_rows) == ("b", "film", 50)
    assert found.recipe.learning_rates == PrefixTuning.rates
    (through,) = prompts(experiment(column | {"reparametrize": 16}))
    assert through.recipe.learning_rates == PrefixTuning.mlp_rates


def test_no_field_could_belong_to_two() -> None:
    own = {*Prompt.model_fields} - {"method", "recipe"}
    for method in METHODS.values():
        assert not {*method.model_fields} & ({*Recipe.model_fields} | own)
    assert not {*Recipe.model_fields} & own


def test_axes_of_a_column_make_one_for_each_combination() -> None:
    varied = {"length": [1, 5], "sites": [["encoder"], ["decoder", "cross"]], "batch_size": [4]}
    found = prompts(experiment({"method": "prefix-tuning", "vary": varied}))
    assert [column.label for column in found] == [
        "prefix-tuning · length 1 · sites encoder · batch size 4",
        "prefix-tuning · length 1 · sites decoder+cross · batch size 4",
        "prefix-tuning · length 5 · sites encoder · batch size 4",
        "prefix-tuning · length 5 · sites decoder+cross · batch size 4",
    ]
    assert [column.method.length for column in found] == [1, 1, 5, 5]
    assert found[3].folder_name == "prefix-tuning-length-5-sites-decoder+cross-batch-size-4"


def test_axes_of_the_experiment_vary_the_columns_that_have_the_field() -> None:
    fixed = {"method": "prefix-tuning", "length": 3}
    columns = experiment("zero-shot", {"method": "prompt-tuning", "name": "mine"}, fixed, vary={"length": [1, 5]})
    names = ["zero-shot", "mine · length 1", "mine · length 5", "prefix-tuning"]
    assert [column.label for column in columns.expanded()] == names
    found = experiment("zero-shot", "tf-idf", vary={"train_rows": [10, 20], "backbone": ["a", "b"]}).expanded()
    names = ["zero-shot · backbone a", "zero-shot · backbone b", "tf-idf · train rows 10", "tf-idf · train rows 20"]
    assert [column.label for column in found] == names


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"vary": {"lenght": [1]}}, r"vary: no column has a field lenght to vary$"),
        (
            {"columns": [{"method": "prompt-tuning", "vary": {"sites": [["encoder"]]}}]},
            r"columns\.0: vary: sites is no",
        ),
        ({"columns": [{"method": "prompt-tuning", "length": 2, "vary": {"length": [1]}}]}, "has a value .* already"),
        ({"vary": {"length": []}}, r"vary\.length: .*at least 1"),
        ({"vary": {"length": [0]}}, r"columns\.0: length: .*greater than or equal to 1"),
        ({"vary": {"length": [5, 5]}}, "two columns are called prompt-tuning-length-5"),
        ({"columns": ["adapters"]}, r"columns\.0: adapters: neither a method \(.*\) nor a kind \(.*tf-idf"),
        ({"columns": [{"kind": "adapters"}]}, r"columns\.0: kind adapters: unknown; one of"),
        ({"columns": [{"kind": "tf-idf", "length": 3}]}, r"columns\.0: length: "),
        ({"columns": [{"kind": "prompt"}]}, r"columns\.0: method: none given"),
        ({"columns": []}, "columns: "),
        ({"recipe": {"stepz": 3}}, "a recipe has no stepz"),
        ({"data": {"imput": "x"}}, r"data\.imput: "),
    ],
)
def test_a_slip_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        experiment(*fields.pop("columns", ["prompt-tuning"]), **fields)
    assert "\n" not in str(error.value)


def test_changes_are_checked_as_the_file_is() -> None:
    before = experiment({"method": "prompt-tuning", "batch_size": 4}, search={"steps": 30})
    after = before.changed(task="posts", on=["film"], seeds=1, steps=10, train_rows=9, backbone="b", label="stars")
    (column,) = prompts(after)
    assert (after.train_task, after.eval_tasks, after.search.steps) == ("posts", ("film",), 10)
    assert (column.recipe.steps, column.recipe.seeds, column.recipe.batch_size) == (10, (0,), 4)
    assert (column.train_rows, column.backbone, after.data.label) == (9, "b", "stars")
    assert before.changed() == before
    assert before.changed(on="film") == before.changed(on=["film"])
    with pytest.raises(UserError, match="colour"):
        before.changed(colour="red")


def test_what_a_user_changes_no_column_has_another_value_of() -> None:
    spec = experiment(
        {"method": "prefix-tuning", "seeds": 5, "steps": 100, "backbone": "large", "vary": {"length": [1, 2]}},
        {"kind": "zero-shot", "vary": {"backbone": ["small", "large"]}},
        vary={"train_task": ["film", "sst2"]},
        backbone="small",
        recipe={"steps": 50},
    )
    changed = spec.changed(backbone="nano", task="posts", seeds=1, steps=7)
    assert [column.label for column in changed.expanded()] == [
        "prefix-tuning · length 1", "prefix-tuning · length 2", "zero-shot"
    ]  # fmt: skip
    first, _ = prompts(changed)
    assert (first.backbone, first.train_task, first.recipe.seeds, first.recipe.steps) == ("nano", "posts", (0,), 7)
    assert spec.changed().expanded() == spec.expanded()


@pytest.mark.parametrize("file", sorted(MEASURED.glob("*.yaml")), ids=lambda file: file.stem)
def test_what_was_measured_is_of_tasks_and_columns_that_there_are(file: Path) -> None:
    spec = load_experiment(file)
    for name in (*spec.train_tasks(), *spec.eval_tasks):
        load_task(name)
    assert all(part.expanded() for part in spec.parts().values() or [spec])


def test_fewer_steps_shorten_the_searches_that_columns_have_of_their_own() -> None:
    spec = experiment(
        {"method": "prompt-tuning", "search": {"steps": 5}},
        {"method": "prefix-tuning", "search": {"steps": 40, "seeds": 2}},
        {"method": "p-tuning", "search": None},
        search={"steps": 30},
    )
    searches = [column.search for column in prompts(spec.changed(steps=10))]
    assert searches == [Search(steps=5), Search(steps=10, seeds=2), None]
    assert [column.search for column in prompts(spec.changed(seeds=1))] == [column.search for column in prompts(spec)]


class Guess(Column):
    """A baseline as one would add it: this class is all."""

    kind: ClassVar[str] = "guess"
    chance: float = 0.5

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        for task in tasks:
            common = {"train_task": None, "metric": task.metric, "n": 1, "seed": None, "trained_parameters": 0}
            yield [Cell(backbone="", method=self.kind, eval_task=task.name, value=self.chance, seconds=0.0, **common)]
            if self.chance == 0.3:
                raise KeyboardInterrupt


def test_a_baseline_is_a_class_and_nothing_else(tmp_path: Path) -> None:
    assert kinds()["guess"] is Guess
    spec = experiment({"kind": "guess", "vary": {"chance": [0.5, 0.25]}}, "guess")
    cells = preface.compare_cross_domain(spec, out=tmp_path)
    assert [(cell.method, cell.eval_task, cell.value) for cell in cells] == [
        (name, task, value)
        for task in ("film", "posts")
        for name, value in (("guess · chance 0.5", 0.5), ("guess · chance 0.25", 0.25), ("guess", 0.5))
    ]
    assert cells[0].details == {"column": "guess", "varied": {"chance": 0.5}}
    assert (tmp_path / "vary.png").exists()
    assert read_cells(tmp_path / "results.json") == cells


def test_varied_columns_go_on_where_they_stopped(tmp_path: Path) -> None:
    spec = experiment({"kind": "guess", "vary": {"chance": [0.5, 0.3]}})
    setting = Setting(tmp_path, spec.data)
    for found in (3, 4):  # each time it is stopped after one task more
        with pytest.raises(KeyboardInterrupt):
            measure(spec, setting)
        assert len(read_cells(tmp_path / "results.json")) == found
    assert [cell.value for cell in measure(spec, setting)] == [0.5, 0.3, 0.5, 0.3]


def test_an_experiment_of_an_older_version_is_another_experiment(tmp_path: Path) -> None:
    older = {"title": "t", "train_task": "film", "eval_tasks": ["film"], "columns": [{"method": "prompt-tuning"}]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(older | {"zero_shot": None, "tfidf": True}))
    with pytest.raises(UserError, match="holds another experiment"):
        preface.compare_cross_domain(experiment("guess"), out=tmp_path)


def test_results_of_nobody_knows_what_are_not_gone_on_with(tmp_path: Path) -> None:
    preface.compare_cross_domain(experiment("guess"), out=tmp_path)
    (tmp_path / "experiment.yaml").unlink()
    with pytest.raises(UserError, match=r"holds results, but no experiment\.yaml"):
        preface.compare_cross_domain(experiment("tf-idf"), out=tmp_path)


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    spec = experiment({"kind": "guess", "vary": {"chance": [0.5, 0.25]}}, data={"label_words": {"0": "negative"}})
    preface.compare_cross_domain(spec, out=tmp_path)
    assert load_experiment(tmp_path / "experiment.yaml") == spec


def test_own_files_are_columns_of_data_like_others(tmp_path: Path) -> None:
    """`input` and `label` hold for data files, and shipped tasks beside them keep their own fields."""
    rows = "".join(f"the {('warm', 'cold')[i % 2]} film number {i},{i % 2}\n" for i in range(40))
    (tmp_path / "mine.csv").write_text("review,stars\n" + rows)
    (tmp_path / "other.csv").write_text("review,stars\n" + rows.replace(",0", ",good").replace(",1", ",bad"))
    spec = experiment("tf-idf", train_task=str(tmp_path / "mine.csv"), eval_tasks=[str(tmp_path / "other.csv"), "film"])
    words = {"0": "positive", "1": "negative", "good": "positive", "bad": "negative"}
    options: dict[str, Any] = {"input": "review", "label": "stars"}
    cells = preface.compare_cross_domain(spec, out=tmp_path / "out", label_words=words, **options)
    assert [(cell.train_task, cell.eval_task) for cell in cells] == [("mine.csv", "other.csv"), ("mine.csv", "film")]
    assert cells[0].value == 1.0
    with pytest.raises(UserError, match="another experiment"):
        preface.compare_cross_domain(spec, out=tmp_path / "out", **options, label_words=words | {"2": "positive"})


def test_two_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.csv").write_text("text,label\nfine,positive\ndull,negative\n" * 20)
    spec = experiment("tf-idf", train_task=f"{tmp_path}/a/mine.csv", eval_tasks=[f"{tmp_path}/b/mine.csv"])
    with pytest.raises(UserError, match=r"mine\.csv: two files have this name"):
        preface.compare_cross_domain(spec, out=tmp_path / "out")


def test_rows_that_were_trained_on_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"the {('warm', 'cold')[i % 2]} film number {i},{('good', 'bad')[i % 2]}\n" for i in range(40))
    (tmp_path / "mine.csv").write_text("text,label\n" + rows)
    spec = experiment("tf-idf", train_task=f"{tmp_path}/mine.csv", eval_tasks=[f"{tmp_path}/mine.csv"])
    preface.compare_cross_domain(spec, out=tmp_path / "out")
    assert "those trained on among them" in capsys.readouterr().err
    assert "those trained on among them" in (tmp_path / "out" / "report.html").read_text()


def test_a_classifier_of_two_tasks_chooses_among_the_labels_of_the_one(tmp_path: Path) -> None:
    kinds_of = {"mood": ("good", "bad"), "place": ("sea", "road")}
    for name, words in kinds_of.items():
        rows = [f"the {words[i % 2]} {name} number {i},{words[i % 2]}" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows, ""]))
    rows = [f"the good mood of the {('sea', 'road')[i % 2]} {i},{('sea', 'road')[i % 2]}" for i in range(20)]
    (tmp_path / "asked.csv").write_text("\n".join(["text,label", *rows, ""]))
    mixture = f"{tmp_path}/mood.csv+{tmp_path}/place.csv"
    asked = load_task(tmp_path / "asked.csv")
    (cell,) = next(
        iter(
            experiment("tf-idf", train_task=mixture, eval_tasks=["film"])
            .expanded()[0]
            .cells(Setting(tmp_path / "out", DataOptions()), [asked])
        )
    )
    assert cell.value == 1.0


def test_a_method_s_defaults_are_its_own() -> None:
    (found,) = prompts(experiment("prompt-tuning"))
    assert found.method == PromptTuning()


def test_the_documented_recipe_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", page, flags=re.DOTALL | re.MULTILINE)
    recipes = [validated(Experiment, yaml.safe_load(textwrap.dedent(block))) for block in blocks]
    labels = [[column.label for column in recipe.expanded()] for recipe in recipes]
    lengths = [f"prefix-tuning · length {length}" for length in (1, 5, 20)]
    assert labels[0] == ["zero-shot", *lengths, "one rate", "tf-idf"]
    assert labels[1:] == [["prefix-tuning", "LoRA", "full tuning"]]

"""Several tasks as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.tasks import Task, load_split, load_task
from preface.tasks.mixture import mixture_of
from preface.tasks.split import MIXED_DEVELOPMENT, few, labelled, sampled


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Two tasks of 40 and 60 rows, of which the first two texts are the same."""
    for name, rows, word in (("short", 40, "yes no"), ("long", 60, "true false")):
        lines = [f"{'both' if i < 2 else name} number {i},{word.split()[i % 2]}" for i in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines, ""]))
        (tmp_path / f"{name}-test.csv").write_text(f"text,label\nboth number {len(name) - 4},{word.split()[0]}\n")
        (tmp_path / f"{name}.yaml").write_text(
            f"""
name: {name}
source: {{files: {{parts: {{rows: {name}.csv, test: {name}-test.csv}}}}}}
fields: {{input: text, label: label}}
template: "{{text}}"
cue: "{name}:"
labels: {{{word.split()[0]!r}: {word.split()[0]!r}, {word.split()[1]!r}: {word.split()[1]!r}}}
splits: {{train: {{part: rows}}, validation: {{part: rows, share: 0.2}}, test: {{part: test}}}}
"""
        )
    return f"{tmp_path}/short.yaml+{tmp_path}/long.yaml"


def test_a_mixture_has_the_labels_and_rows_of_its_tasks(own: str) -> None:
    task = load_task(own)
    assert task.name == "short+long"
    assert task.label_words == ("yes", "no", "true", "false")
    for split in ("train", "validation", "test"):
        rows, each = load_split(task, split), [load_split(single, split) for single in task.mixture]
        assert len(rows.examples) == sum(rows.parts)
        texts = {example.text for part in each for example in part.examples}
        assert {example.text for example in rows.examples} <= texts
        assert rows.sources == [*each[0].sources, *each[1].sources]


def test_it_is_read_as_it_was_written(own: str) -> None:
    task = load_task(own)
    assert Task.model_validate_json(task.model_dump_json()) == task


def test_no_task_has_a_text_in_training_that_another_has_in_its_test(own: str) -> None:
    task = load_task(own)
    tested = {example.text for example in load_split(task, "test").examples}
    assert tested == {"both number 1", "both number 0"}
    for split in ("train", "validation"):
        assert not tested & {example.text for example in load_split(task, split).examples}
    alone = load_split(task.mixture[0], "train").examples, load_split(task.mixture[0], "validation").examples
    assert any(example.text == "both number 0" for part in alone for example in part)  # which only the other tests on


def test_train_rows_are_of_each_task(own: str) -> None:
    rows = load_split(load_task(own), "train")
    some = sampled(rows, 35)
    assert some.parts == (min(35, rows.parts[0]), 35)
    names = [example.text.split()[0] for example in some.examples]
    assert names == ["short"] * some.parts[0] + ["long"] * some.parts[1]
    assert few(rows, 3, 0).parts == ()


def test_development_rows_are_as_many_of_each_task(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preface.tasks.split.MIXED_DEVELOPMENT", 6)
    assert load_split(load_task(own), "validation").parts == (3, 3)
    assert MIXED_DEVELOPMENT == 2000


def test_one_cue_for_all(own: str) -> None:
    assert load_task(own).cue == "Answer:"
    assert load_task(own, cue="So:").cue == "So:"
    assert load_task("sst2+cr").cue == load_task("sst2").cue


def test_one_wording_for_all() -> None:
    worded = [load_task(name, wording="mood: {text}") for name in ("film", "sst2")]
    assert mixture_of(worded).wording == "mood: {text}"
    assert mixture_of([worded[0], load_task("sst2")]).wording == "{text}"
    assert load_task("film+sst2", wording="So: {text}").wording == "So: {text}"


def test_it_asks_another_task_for_that_task_s_words() -> None:
    task, film = load_task("sst2+trec"), load_task("film")
    assert task.words_for(film) == film.label_words
    assert task.words_for(load_task("rte")) == task.label_words  # whose words it has not learned
    assert film.words_for(load_task("trec")) == film.label_words


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("film+film", {}, "a task stands there twice"),
        ("film+reviews", {}, "not all of them have rows to train on"),
        ("film+squad", {}, "squad are free text"),
        ("film+fil", {}, "no task is called 'fil', did you mean film"),
        ("film+sst2", {"label": "x"}, "of a mixture only cue and wording"),
    ],
)
def test_mixtures_that_cannot_be(spec: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(spec, **options)


def test_one_prompt_for_several_tasks(tiny: Backbone, own: str, tmp_path: Path) -> None:
    run = preface.train(tiny, own, "prompt-tuning", out=tmp_path / "run", train_rows=9, steps=2, learning_rates=[0.1])
    assert run.record.splits.train.rows == 18
    for part, words in zip(own.split("+"), ({"yes", "no"}, {"true", "false"}), strict=True):
        (cell,) = preface.evaluate(run, on=[part], backbone=tiny)
        lines = (run.folder / str(cell.details["predictions"])).read_text().splitlines()
        assert {json.loads(line)["label"] for line in lines} <= words
    again = preface.train(tiny, run.record.task, out=tmp_path / "again", steps=1, learning_rates=[0.1])
    assert again.record.task == run.record.task


def test_data_files_together_keep_their_rows_for_training(tmp_path: Path) -> None:
    """All rows of a data file are its test, which takes none away from the others."""
    for name, words in (("a", ("good", "bad")), ("b", ("sea", "road"))):
        rows = [f"{name} number {i},{words[i % 2]}" for i in range(60)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows, ""]))
    task = load_task(f"{tmp_path}/a.csv+{tmp_path}/b.csv")
    sizes = {split: load_split(task, split).parts for split in ("train", "validation", "test")}
    assert sizes == {"train": (54, 54), "validation": (6, 6), "test": (60, 60)}


def test_of_all_labelled_rows_too_so_many_are_of_each_task(own: str) -> None:
    task = load_task(own)
    every = labelled(task, lambda split: load_split(task, split))
    assert len(every.examples) == sum(every.parts)
    assert sampled(every, 10).parts == (10, 10)


def test_a_task_whose_texts_another_tests_is_named(tmp_path: Path) -> None:
    texts = ["one,yes", "two,no", "three,yes", "four,no"]
    for name, tested in (("first", "five,yes"), ("second", "\n".join(texts))):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *texts, ""]))
        (tmp_path / f"{name}-test.csv").write_text(f"text,label\n{tested}\n")
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nsource: {{files: {{parts: {{rows: {name}.csv, test: {name}-test.csv}}}}}}\n"
            "fields: {input: text, label: label}\nlabels: {'yes': 'yes', 'no': 'no'}\n"
            "splits: {train: {part: rows}, test: {part: test}}\n"
        )
    (tmp_path / "second.csv").write_text("text,label\nsix,yes\nseven,no\n")
    with pytest.raises(UserError, match=r"first\+second: another of its tasks has all texts of first's train rows in"):
        load_split(load_task(f"{tmp_path}/first.yaml+{tmp_path}/second.yaml"), "train")

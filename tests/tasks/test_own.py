"""A data file of one's own as a task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preface.tasks import DataOptions, Example, Task, iter_examples, load_split, load_task
from tests.tasks.making import fails, jsonl, rows, task, texts

# A data file of one's own


def test_a_data_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a[1].jsonl", [{"stars": i % 2, "review": f"text {i}", "other": i} for i in range(200)])
    each = load_task(path, input="review", label="stars")
    assert (each.name, each.label_words, each.fields.input) == ("a[1].jsonl", ("0", "1"), ("review",))
    train, validation, test = (load_split(each, name).examples for name in ("train", "validation", "test"))
    assert len(test) == 200
    assert Counter(example.label for example in validation) == {"0": 10, "1": 10}
    assert sorted(texts(train) + texts(validation)) == sorted(texts(test))
    assert load_split(each, "validation").examples == validation
    named = load_task(str(path), input=["review", "other"], label="stars", label_words={"0": "bad", "1": "good"})
    assert load_split(named, "test").examples[1] == Example.of("text 1 1", "good")
    assert load_split(Task.model_validate_json(named.model_dump_json()), "test") == load_split(named, "test")


def test_usual_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("label\tsentence\tcontent\nyes\ta\tb\nno\tc\td\n")
    each = load_task(tmp_path / "a.tsv")
    assert (each.fields.input, each.fields.label, each.label_words) == (("sentence",), "label", ("no", "yes"))
    assert load_split(each, "test").examples == [Example.of("a", "yes"), Example.of("c", "no")]


def test_a_file_of_pairs_needs_no_yaml(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"p": f"text {i}", "h": i, "label": i % 2} for i in range(20)])
    joined = load_task(path, input=("p", "h"))
    assert texts(load_split(joined, "test").examples)[3] == "text 3 3"
    each = load_task(path, template="{p} … {h}?")
    assert each.fields.input == ("p", "h")
    example = load_split(each, "test").examples[3]
    assert (example.text, example.fields) == ("text 3 … 3?", {"p": "text 3", "h": "3"})
    assert Task.model_validate_json(each.model_dump_json()) == each
    assert next(iter_examples(each, path))[1] == load_split(each, "test").examples[0]
    named = load_task(path, input="p", template="Is it so? {text}")
    assert texts(load_split(named, "test").examples)[3] == "Is it so? text 3"
    assert "the field 'h' is no text but int" in fails(load_split, load_task(path, input="p", template="{h}"), "test")
    options = DataOptions(template="{p} … {h}?")
    assert options.split(options.task(path), "test").examples[3] == example


def test_splits_in_files_of_their_own(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", [*rows(30), {"text": "DEV  1", "label": 0}])
    dev = jsonl(tmp_path / "there" / "dev.jsonl", rows(4, "dev"))
    test = tmp_path / "test.csv"
    test.write_text("label,text\n0,text 3\n1,test\n")
    options = DataOptions(validation=dev, test=test)
    each = options.task(train)
    found = {name: texts(options.split(each, name).examples) for name in ("train", "validation", "test")}
    assert found["train"] == [f"text {i}" for i in range(30) if i != 3]  # no text of another split
    assert found["validation"] == [f"dev {i}" for i in range(4)]
    assert found["test"] == ["text 3", "test"]
    only = load_task(train, test=test)
    assert len(load_split(only, "validation").examples) == 4
    assert texts(load_split(only, "test").examples) == found["test"]
    assert (
        fails(load_task, train, test=tmp_path / "no.csv") == f"{tmp_path}/no.csv: there is no such file; check the path"
    )
    test.write_text("label,review\n0,text 3\n")
    assert fails(load_task, train, test=test) == f"{test}: has no field 'text'; its fields are 'label', 'review'"
    assert fails(load_task, "film", test=test) == f"{test}: is for a data file; film has splits of its own"


def test_templates_that_are_broken(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(4))
    assert fails(load_task, path, template="{text").startswith("template '{text': ")
    assert "names no field" in fails(load_task, path, template="no field")
    assert "plain field names" in fails(load_task, "sst2", template="{a!r}")


def test_labels_that_are_no_number_are_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,nan\nc,0\nd,NaN\n")
    each = load_task(tmp_path / "a.csv")
    assert each.label_words == ("0", "1")
    assert "line 3: the field 'label' is 'nan'; known labels are '0', '1'" in fails(load_split, each, "test")
    assert len(load_split(each, "test", skip_bad_rows=True).examples) == 2
    # named, it is a label like others
    assert load_task(tmp_path / "a.csv", label_words={"nan": "none", "1": "yes"}).label_words == ("none", "yes")


def test_labels_of_a_data_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": pa.array([1.0, 0.0, None])}), path)
    assert load_task(path).label_words == ("0", "1")
    assert fails(load_split, load_task(path), "test").startswith(f"{path} row 3: the field 'label' is empty")
    given = load_task(jsonl(tmp_path / "b.jsonl", rows(4, labels=4)), label_words={"0": "no", "1": "yes", "2": None})
    assert fails(load_split, given, "test").startswith(
        f"{tmp_path}/b.jsonl line 4: the field 'label' is '3'; known labels are '0', '1', '2'"
    )
    assert len(load_split(given, "test", skip_bad_rows=True).examples) == 2


@pytest.mark.parametrize(
    ("content", "named", "said"),
    [
        ("", {}, "an empty split: the file has no rows"),
        ("text,label\n", {}, "an empty split: the file has no rows"),
        ("text,label\na,1\n", {}, "only one label, '1', in the field 'label'"),
        ("text,label\na,1\nb,1\n", {}, "only one label, '1', in the field 'label'"),
        ("text,label\na,\n", {}, "the field 'label' is empty in each row"),
        ("text,label\na,1\n", {"label_words": {"1": "x", "0": "x"}}, "fewer than two different words, 'x'; a task"),
        ("text,label\na,1\n", {"label_words": {"1": "x", "0": None}}, "fewer than two different words, 'x'; a task"),
        ("text,label\na,1\nb,NaN\n", {}, "only one label, '1', in the field 'label'"),
        ("a,b,label\n1,2,3\n", {"template": "{a} {c}"}, "has no field 'c'; its fields are 'a', 'b', 'label'"),
        ("a,b,label\n1,2,3\n", {"template": "{a} {text}"}, "no field is called 'text', name one with --input"),
        ("a,label\n1,2\n3,4\n", {"template": "{a} {label}"}, "the label field 'label' may not be part of the text"),
        ("a,b\n1,2\n", {}, "no field is called 'text', name one with --input; its fields are 'a', 'b'"),
        (
            "text,b\n1,2\n",
            {},
            "no field is called 'label', name one with --label; its fields are 'text', 'b'",
        ),
        ("text,label\n1,2\n", {"input": "review"}, "has no field 'review'; its fields are 'text', 'label'"),
        ("text,label\n1,2\n", {"label": "stars"}, "has no field 'stars'; its fields are 'text', 'label'"),
        ("text,label\n1,2\n3,4", {"input": "label"}, "the label field 'label' may not be part of the text"),
        ("text,label\n" + "".join(f"a,{i}\n" for i in range(600)), {}, "has more than 500 different values"),
        ("text,label\n1\n", {}, "has 1 cells, but the header has 2"),
        ("text,label\né,1\n", {"encoding": "ascii"}, "line 2: byte 0xc3 at offset 11 is not ascii"),
    ],
)
def test_data_files_that_make_no_task(tmp_path: Path, content: str, named: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    message = fails(load_task, path, **named)
    assert message.startswith(str(path))
    assert said in message


def test_paths_that_are_no_data_file(tmp_path: Path) -> None:
    assert "is a folder; name a data file" in fails(load_task, tmp_path)
    (tmp_path / "a.xlsx").touch()
    assert "its name does not say its format" in fails(load_task, tmp_path / "a.xlsx")
    one = load_task(jsonl(tmp_path / "a.jsonl", rows(1)), label_words={"0": "no", "1": "yes"})
    assert len(load_split(one, "test").examples) == 1
    assert "an empty split" in fails(load_split, one, "validation")


def test_what_a_named_task_says_can_be_overridden() -> None:
    each = load_task("sst2", input="review", label="stars", label_words={"a": "x", "b": "y"}, encoding="latin-1")
    assert (each.fields.input, each.fields.label, each.label_words) == (("review",), "stars", ("x", "y"))
    assert each.source.files is not None
    assert each.source.files.encoding == "latin-1"
    assert each.source.hub == load_task("sst2").source.hub
    assert load_task(each) == each
    other = load_task("imdb", template="{title}: {review}")
    assert (other.fields.input, other.instructions) == (("title", "review"), ())
    assert load_task("imdb", template="Review: {text}").fields.input == ("text",)
    assert "so the input cannot be set" in fails(load_task, task(template="{a} {b}"), input="x")


def test_an_empty_label_among_lists_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\none,a; b\ntwo,a\nthree,\n")
    said = "each row needs a label"
    hint = "unless a text may have any number of them: give --multi-label (or --skip-bad-rows)"
    assert f"{said}, {hint}" in fails(load_split, load_task(path), "test")
    assert len(load_split(load_task(path, multi_label=True), "test").examples) == 3
    path.write_text("text,label\none,b\ntwo,a\nthree,\n")
    assert f"{said} (or --skip-bad-rows)" in fails(load_split, load_task(path), "test")

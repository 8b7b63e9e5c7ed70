"""Tasks as they are defined: the shipped ones, options, references, and mistakes in a YAML file."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from preface.errors import UserError
from preface.tasks import Row, Task, load_task
from preface.tasks.registry import registered
from preface.tasks.task import SplitRule, example_of, label_of

SENTIMENT = {
    "company_news", "cr", "film", "financial_phrasebank", "imdb", "mpqa",
    "posts", "reviews", "semeval_twitter", "sst2", "tweets",
}  # fmt: skip
SHIPPED = SENTIMENT | {
    "boolq",
    "cb",
    "cola",
    "copa",
    "mrpc",
    "mrqa",
    "multirc",
    "qnli",
    "qqp",
    "record",
    "rte",
    "squad",
    "stsb",
    "subj",
    "trec",
    "wic",
    "wnli",
    "wsc",
}


def definition(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "source": {"files": {"parts": {"all": "a.csv"}}},
        "fields": {"input": "text", "label": "label"},
        "labels": {0: "bad", 1: "good"},
        "splits": {"test": {"part": "all"}},
    } | changes


def written(folder: Path, content: dict[str, Any] | str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def row(**fields: Any) -> Row:
    return Row("a.csv", 7, fields)


def test_shipped_tasks() -> None:
    assert set(registered()) == SHIPPED
    for name in SHIPPED:
        task = load_task(name)
        assert task.name == name
        assert task.description
        assert (task.label_words == ("negative", "positive")) == (name in SENTIMENT)
        other = {"cb", "cola", "mrqa", "multirc", "record", "squad", "stsb"}
        assert (task.metric == "accuracy") == (name not in other)
        assert "test" in task.splits


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_combination_of_options_is_a_task_that_its_name_refers_to(name: str) -> None:
    options = load_task(name).options
    for values in product(*(option.values for option in options.values())):
        chosen = dict(zip(options, values, strict=True))
        reference = ":".join([name, ",".join(f"{k}={v}" for k, v in chosen.items())]) if chosen else name
        task = load_task(reference)
        assert load_task(task.name) == task
        assert ("neutral" in task.label_words) == (chosen.get("neutral") == "keep")


def test_options_change_the_source_and_the_name() -> None:
    task = load_task("financial_phrasebank:agreement=75,neutral=keep")
    assert task.name == "financial_phrasebank:agreement=75,neutral=keep"
    assert task.source.files is not None
    assert task.source.files.parts == {"all": ("financial_phrasebank/Sentences_75Agree.txt",)}
    assert load_task("financial_phrasebank:agreement=50,neutral=drop").name == "financial_phrasebank"


def test_fewer_test_rows_are_an_option() -> None:
    for name, size in (("boolq:rows=500", 500), ("multirc:rows=500", 500), ("multirc:rows=150", 150)):
        few, whole = load_task(name), load_task(name.split(":")[0])
        assert few.splits["test"] == SplitRule(part="test", size=size)
        assert {**few.splits, "test": whole.splits["test"]} == whole.splits
    for name in ("squad:train=dev,rows=500", "squad:rows=500,train=dev"):
        few = load_task(name)
        assert few.name == "squad:train=dev,rows=500"
        assert few.splits["train"].part == "test"
        assert (few.splits["validation"].size, few.splits["test"].size) == (200, 500)


def test_a_task_survives_json() -> None:
    for name in SHIPPED:
        task = load_task(name)
        assert Task.model_validate_json(task.model_dump_json()) == task
        assert Task.model_validate(task.model_dump(mode="json")) == task


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("ssst2", "did you mean sst2?"),
        ("nothing at all", "Give one of boolq"),
        ("", "no task is called ''"),
        ("a\0b", "no task"),
        ("x" * 5000, "no task"),
        ("finacial_phrasebank:agreement=75", "did you mean financial_phrasebank?"),
        ("sst2:agreement=75", "has no option 'agreement'; it has none"),
        ("financial_phrasebank:agrement=75", "it has agreement=50|66|75|all; neutral=drop|keep"),
        ("financial_phrasebank:agreement=80", "values are 50, 66, 75, all"),
        ("financial_phrasebank:agreement", "options are written NAME:option=value"),
        ("financial_phrasebank:", "options are written NAME:option=value"),
        ("financial_phrasebank:neutral=keep,neutral=drop", "each option once"),
        ("missing.yaml", "missing.yaml: there is no such file"),
        ("missing.yaml:a=b", "missing.yaml: there is no such file"),
        ("missing.csv", "missing.csv: there is no such file"),
        ("-", "standard input: cannot be a task"),
    ],
)
def test_mistaken_references(reference: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(reference)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_yaml_of_ones_own(tmp_path: Path) -> None:
    options = {"kind": {"default": "b", "values": {"b": {}, "c": {"labels": {2: "so so"}, "template": "c: {text}"}}}}
    path = written(tmp_path, definition(options=options))
    assert load_task(path).label_words == ("bad", "good")
    assert load_task(path).folder == tmp_path
    changed = load_task(f"{path}:kind=c")
    assert changed.label_words == ("bad", "good", "so so")
    assert changed.template == "c: {text}"
    assert changed.name == "mine:kind=c"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: [", "mine.yaml line 1: is not YAML"),
        ("a: b\nc: d: e\n", "mine.yaml line 2: is not YAML"),
        ("x: 2020-13-45", "mine.yaml: is not YAML"),
        ("just words", "mine.yaml: is not a task"),
        ("", "mine.yaml: is not a task"),
        (definition(colour="red"), "colour: is no key of a task"),
        ({"name": "x"}, "source: Field required"),
        (definition(labels={0: "bad"}), "labels needs two or more different words"),
        (definition(labels={0: "same", 1: "same"}), "labels needs two or more different words"),
        (definition(labels={True: "good", False: "bad"}), "write it in quotes"),
        (definition(labels={"a": True, "b": "bad"}), "write it in quotes"),
        (definition(metric="f7"), "metric 'f7' is none of accuracy, macro_f1"),
        (
            definition(splits={"dev": {"part": "all"}}),
            "splits.dev: Input should be 'train', 'validation' or 'test'",
        ),
        (
            definition(splits={"test": {"part": "none"}}),
            "splits.test.part 'none' is no part of the source; parts: all",
        ),
        (
            definition(splits={"test": {"part": "all", "size": 0}}),
            "splits.test.size: Input should be greater than 0",
        ),
        (definition(splits={}), "splits: Dictionary should have at least 1 item"),
        (definition(template="{"), "template '{'"),
        (definition(template="{text!r}"), "plain field names"),
        (definition(template="{}"), "plain field names"),
        (definition(template="no field"), "template names no field"),
        (
            definition(instructions=["say {other}"]),
            "instructions.0: {other} is no field of the template, which has {text}",
        ),
        (definition(instructions=["a {text}", "{"]), "instructions.1: template '{'"),
        (definition(instructions=["a {text}", {"template": "b"}]), "instructions.1: template names no field"),
        (definition(instructions=[{"template": "{text}", "answer": {}}]), "instructions.0.answer: is no key of a task"),
        (definition(instructions=[{"template": "{text}", "answers": {"bad": False}}]), "write it in quotes"),
        (
            definition(instructions=[{"template": "{text}", "answers": {"bad": "x", "good": "x"}}]),
            "instructions.0: answers needs a different word for each label, not ['x', 'x']",
        ),
        (definition(template="{text} {label}"), "the label field 'label' may not be part of the text"),
        (definition(fields={"input": "label", "label": "label"}), "may not be part of the text"),
        (
            definition(fields={"input": [], "label": "label"}),
            "fields.input: Value should have at least 1 item",
        ),
        (
            definition(options={"a": {"default": "x", "values": {"y": {}}}}),
            "options: default 'x' is none of the values",
        ),
        (definition(options=["a"]), "options: must be a dictionary"),
        (
            definition(source={"files": {"parts": {"all": "a"}, "format": "xls"}}),
            "source.files.format: Input should be",
        ),
        (
            definition(source={"files": {"parts": {"all": "a"}, "format": "txt", "columns": ["a", "b"]}}),
            "columns needs 1 names",
        ),
        (
            definition(source={"files": {"parts": {"all": "a"}, "labels": {"all": "b"}}}),
            "labels needs format: txt",
        ),
    ],
)
def test_mistakes_in_a_yaml(tmp_path: Path, content: dict[str, Any] | str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(written(tmp_path, content))
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


def test_a_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: is not UTF-8 at byte 9"):
        load_task(tmp_path / "latin.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        load_task(tmp_path / "folder.yaml")


def test_the_template_takes_any_field_and_replacements() -> None:
    task = Task.model_validate(
        definition(
            fields={"input": ["a b", "second"], "label": "label"},
            template="{{q}} {text} | {other}",
            replace={"<br />": " ", "x y": "z"},
        )
    )
    read = row(**{"a b": "one<br />x", "second": 2, "other": "<br />y", "label": 1, "text": "not used"})
    example = example_of(task, read, label_of(task, read))
    assert (example.text, example.label) == ("{q} one x 2 | y", "good")
    assert example.fields == {"text": "one x 2", "other": "y"}


@pytest.mark.parametrize(
    ("value", "word"),
    [("0", "bad"), (0, "bad"), (1.0, "good"), (" 1 ", "good"), ("2", None), ("2.5", "so so"), (2.5, "so so")],
)
def test_label_values(value: Any, word: str | None) -> None:
    task = Task.model_validate(definition(labels={0: "bad", 1: "good", 2: None, 2.5: "so so"}))
    assert label_of(task, row(label=value)) == word


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label": 1}, "a.csv line 7: has no field 'text'; its fields are 'label'"),
        ({}, "a.csv line 7: has no field 'text'; its fields are none"),
        ({"text": " \t", "other": "x"}, "a.csv line 7: the field 'text' is empty"),
        ({"text": None, "other": "x"}, "a.csv line 7: the field 'text' is empty"),
        ({"text": float("nan"), "other": "x"}, "a.csv line 7: the field 'text' is empty"),
        ({"text": ["a"], "other": "x"}, "a.csv line 7: the field 'text' is no text but list"),
        ({"text": True, "other": "x"}, "a.csv line 7: the field 'text' is no text but bool"),
        ({"text": b"a", "other": "x"}, "a.csv line 7: the field 'text' is no text but bytes"),
        ({"text": "x", "other": 3}, "a.csv line 7: the field 'other' is no text but int"),
        ({"text": "\ud800", "other": "x"}, "a.csv line 7: the field 'text' holds half a character"),
        ({"text": "gone", "other": "gone"}, "a.csv line 7: the text is empty once"),
    ],
)
def test_fields_that_are_no_text(fields: dict[str, Any], said: str) -> None:
    task = Task.model_validate(definition(template="{text}{other}", replace={"gone": ""}))
    with pytest.raises(UserError) as caught:
        example_of(task, row(**fields), None)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "x"}, "a.csv line 7: has no field 'label'; its fields are 'text'"),
        ({"label": ""}, "a.csv line 7: the field 'label' is empty"),
        ({"label": None}, "a.csv line 7: the field 'label' is empty"),
        ({"label": "2"}, "a.csv line 7: the field 'label' is '2'; known labels are '0', '1'"),
        ({"label": "x\n" * 900}, "a.csv line 7: the field 'label' is 'x x"),
        ({"label": [1]}, "a.csv line 7: the field 'label' is a list"),
    ],
)
def test_fields_that_are_no_label(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        label_of(Task.model_validate(definition()), row(**fields))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "word"), [("5.000", "5.0"), (3.8, "3.8"), ("2.533", "2.6"), ("2.49", "2.4"), (0, "0.0"), ("score", None)]
)
def test_numbers_are_rounded_to_a_step(value: Any, word: str | None) -> None:
    """As T5 has STS-B (Raffel et al. 2020, section 2.4)."""
    assert label_of(load_task("stsb"), row(label=value)) == word


def test_a_number_beyond_the_labels_is_named() -> None:
    for value in ("7.3", "nan", "inf"):
        with pytest.raises(UserError, match=rf"a\.csv line 7: the field 'label' is '{value}'"):
            label_of(load_task("stsb"), row(label=value))


def test_wsc_of_files_has_the_fields_of_the_hub() -> None:
    task = load_task("wsc")
    assert task.source.files is not None
    fields = {"text": "Mark told Pete, so he knew.", "span1_text": "Pete", "span2_text": "he", "label": 1}
    example = example_of(task, Row("hub", 1, fields), "yes")
    assert example.text == 'Mark told Pete, so he knew. In that passage, does "he" mean "Pete"?'
    assert set(task.source.files.nested) == set(fields)


def test_qqp_is_asked_in_the_words_of_mrpc() -> None:
    """What is trained on one is tested on the other (Lester et al. 2021, section 5)."""
    mrpc, qqp = load_task("mrpc"), load_task("qqp")
    assert qqp.label_words == mrpc.label_words == ("no", "yes")
    for task, fields in ((mrpc, ("sentence1", "sentence2")), (qqp, ("question1", "question2"))):
        read = row(**dict(zip(fields, ("One.", "two."), strict=True)))
        assert example_of(task, read, None).text == "One. Does that mean that two."

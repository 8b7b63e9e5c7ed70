"""Splits of a task, and rows to predict on."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from preface.tasks import Example, iter_examples, load_split, load_task
from preface.tasks.registry import task_of
from preface.tasks.split import folded
from tests.tasks.making import Rows, fails, jsonl, rows, task, texts

# Splits


def test_splits_of_files(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", rows(30, labels=3))
    test = jsonl(tmp_path / "test.jsonl", rows(4, "other"))
    found = {name: load_split(task(), name, data=tmp_path) for name in ("train", "validation", "test")}
    assert {name: len(split.examples) for name, split in found.items()} == {
        "train": 15,
        "validation": 5,
        "test": 4,
    }
    assert found["test"].examples[:2] == [Example.of("other 0", "bad"), Example.of("other 1", "good")]
    for name, path, count in (("train", train, 30), ("validation", train, 30), ("test", test, 4)):
        (source,) = found[name].sources
        assert (found[name].task, found[name].split, found[name].skipped) == ("mine", name, [])
        assert (source.name, source.rows, source.revision) == (str(path), count, None)
        assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_text_stands_in_two_splits(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [*rows(20), *rows(20), {"text": " ONLY \t in test", "label": 1}])
    jsonl(tmp_path / "test.jsonl", [*rows(3, "TEXT"), {"text": "only in  Test", "label": 0}])
    capped = task(splits=task().model_dump()["splits"] | {"test": {"part": "test", "size": 1}})
    for each in (task(), capped):
        train, validation = (load_split(each, name, data=tmp_path).examples for name in ("train", "validation"))
        held = {folded(text) for text in texts(validation)}
        assert held.isdisjoint(map(folded, texts(train)))
        # all of the test part's texts are out of train, capped or not
        assert {folded(text) for text in texts(train)} | held == {f"text {i}" for i in range(3, 20)}
        assert max(Counter(texts(train)).values()) == 2


def test_empty_splits_and_single_labels(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(5))
    jsonl(tmp_path / "test.jsonl", [])
    message = fails(load_split, task(), "test", data=tmp_path)
    assert message.startswith("mine: an empty split: no rows are left for test (its part 'test' has 0 usable rows)")
    message = fails(load_split, task(), "train", data=tmp_path)
    assert "an empty split" in message
    assert "5 usable rows, and validation took theirs first" in message
    jsonl(tmp_path / "train.jsonl", [row | {"label": 1} for row in rows(9)])
    assert fails(load_split, task(), "train", data=tmp_path).startswith("mine: only one label, 'good', in train")
    assert len(load_split(task(), "validation", data=tmp_path).examples) == 5
    assert fails(load_split, task(), "dev", data=tmp_path) == "mine has no split 'dev'; it has train, validation, test"


def test_bad_rows_raise_or_are_listed(tmp_path: Path) -> None:
    bad: Rows = [{"text": "", "label": 1}, {"text": "a", "label": 7}, {"label": 1}]
    path = jsonl(tmp_path / "test.jsonl", [rows(1)[0], *bad, rows(2)[1]])
    path.write_text(path.read_text() + "{\n")
    assert fails(load_split, task(), "test", data=tmp_path) == (
        f"{path} line 2: the field 'text' is empty; fill it or leave the row out (or --skip-bad-rows)"
    )
    split = load_split(task(), "test", data=tmp_path, skip_bad_rows=True)
    assert texts(split.examples) == ["text 0", "text 1"]
    assert [message.removeprefix(f"{path} ").split(";")[0] for message in split.skipped] == [
        "line 2: the field 'text' is empty",
        "line 3: the field 'label' is '7'",
        "line 4: has no field 'text'",
        "line 6: is not JSON at column 2 (Expecting property name enclosed in double quotes)",
    ]


# Rows to predict on


def test_rows_without_labels_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = load_task("tweets")
    path = jsonl(tmp_path / "a.jsonl", [
        {"text": "a", "label": 2}, {"text": "b"}, {"text": "c", "label": "negative"},
        {"text": "d", "label": 1}, {"text": "e", "label": None}, {"text": "f", "label": "?"},
    ])  # fmt: skip
    found = list(iter_examples(each, path))
    assert [row.line for row, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [example.label for _, example in found] == ["positive", None, "negative", None, None, None]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text\nfrom a pipe\n")))
    assert [example.text for _, example in iter_examples(each, "-")] == ["from a pipe"]


def test_another_field_is_taken_for_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    found = list(iter_examples(load_task("sst2"), tmp_path / "a.txt"))
    assert [(row.line, example.text) for row, example in found] == [(1, "one"), (3, "two")]
    (tmp_path / "a.csv").write_text("review,text\nx,y\n", encoding="utf-16")
    named = load_task("sst2", input="review")
    assert next(iter_examples(named, tmp_path / "a.csv", encoding="utf-16"))[1].text == "x"
    (tmp_path / "b.csv").write_text("review\nx\n")
    message = fails(iter_examples, load_task("sst2"), tmp_path / "b.csv")
    said = f"{tmp_path}/b.csv line 1: has no field 'sentence'; its fields are 'review'; name the right one"
    assert message == f'{said}, or give JSON Lines, such as {{"text": "…"}}'


def piped(monkeypatch: pytest.MonkeyPatch, content: str) -> list[tuple[str, str]]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    return [(row.place, example.text) for row, example in iter_examples(load_task("sst2"), "-")]


@pytest.mark.parametrize("content", ["a good film", "a good film\n", "a good film\nand a bad one\n", "good, bad\n"])
def test_plain_text_on_standard_input_is_no_table(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    message = fails(piped, monkeypatch, content)
    assert message.startswith("standard input line 1: has no field 'sentence'; its fields are ")
    assert message.endswith('or give JSON Lines, such as {"text": "…"}')


def test_json_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert piped(monkeypatch, '"a good film"\n') == [("standard input line 1", "a good film")]
    assert piped(monkeypatch, '"text"\n"a good film"\n') == [("standard input line 2", "a good film")]
    assert piped(monkeypatch, '[\n{"sentence": "one", "label": 0},\n{"sentence": "two"}]\n') == [
        ("standard input item 1", "one"),
        ("standard input item 2", "two"),
    ]
    assert piped(monkeypatch, '["one", {"text": "two"}]') == [
        ("standard input item 1", "one"),
        ("standard input item 2", "two"),
    ]
    assert fails(piped, monkeypatch, '["one", 2]').startswith("standard input item 2: is neither an object, such as")
    assert fails(piped, monkeypatch, '["one"').startswith("standard input line 1: is not JSON at column 7")
    assert piped(monkeypatch, "") == piped(monkeypatch, "[]") == piped(monkeypatch, "text\n") == []


def test_bad_rows_of_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{\n{"text": ""}\n{"text": "b"}\n')
    assert fails(iter_examples, load_task("film"), path).startswith(f"{path} line 2: is not JSON")
    said: list[str] = []
    found = list(iter_examples(load_task("film"), path, skip_bad_rows=True, on_skip=said.append))
    assert [example.text for _, example in found] == ["a", "b"]
    assert len(said) == 2
    assert len(list(iter_examples(load_task("film"), path, skip_bad_rows=True))) == 2


def test_loading_is_quick_and_datasets_is_not_imported(tmp_path: Path) -> None:
    lines = [f"sentence number {i} of the train part\t{i % 2}\n" for i in range(67_000)]
    (tmp_path / "sst2").mkdir()
    for name, part in (("train.tsv", lines), ("dev.tsv", lines[:800])):
        (tmp_path / "sst2" / name).write_text("sentence\tlabel\n" + "".join(part))
    began = time.process_time()  # of this process alone: others may run beside it
    assert len(load_split("sst2", "train", data=tmp_path).examples) == 67_000 - 800 - 1000
    assert time.process_time() - began < 3
    script = (
        "import sys, preface.tasks as t; t.load_split('sst2', 'test', data=sys.argv[1]); "
        "print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("rule", [{"size": 15}, {"share": 0.3}, {"share": 0.5, "size": 12}])
def test_rows_that_belong_together_stay_together(tmp_path: Path, rule: dict[str, Any]) -> None:
    rows = [
        {"text": f"question {q} answer {a}", "question": f"question {q}", "label": ("no", "yes")[(q + a) % 2]}
        for q in range(20)
        for a in range(2 + q % 3)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    definition = {
        "name": "grouped",
        "source": {"files": {"parts": {"all": "rows.jsonl"}}},
        "fields": {"input": "text", "label": "label", "group": ["question"]},
        "labels": {"no": "no", "yes": "yes"},
        "splits": {"train": {"part": "all"}, "validation": {"part": "all"} | rule},
    }
    task = task_of(definition, "grouped.yaml")
    train, held_out = (load_split(task, name, data=tmp_path).examples for name in ("train", "validation"))
    assert len(train) + len(held_out) == len(rows)
    assert not {row.group for row in train} & {row.group for row in held_out}
    most = min(rule.get("size", 99), round(rule.get("share", 1) * len(rows)))
    assert most - 4 < len(held_out) <= most

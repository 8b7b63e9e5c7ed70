"""Several labels a text: what a field may hold, and how splits are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preface.errors import UserError
from preface.tasks import load_split, load_task
from preface.tasks.label_sets import as_set, as_text
from preface.tasks.registry import task_of

DEFINITION: dict[str, Any] = {
    "name": "moods",
    "source": {"files": {"parts": {"all": "rows.jsonl"}}},
    "fields": {"input": "text", "label": "moods"},
    "labels": {"1": "joy", "2": "love", "3": "deep sorrow", "4": None},
    "multi_label": True,
    "label_separator": "|",
    "metric": "micro_f1",
    "splits": {
        "train": {"part": "all"},
        "validation": {"part": "all", "share": 0.1},
        "test": {"part": "all", "size": 8},
    },
}


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@given(st.lists(st.sampled_from(["joy", "love", "deep sorrow"]), unique=True))
def test_one_text_is_read_back(words: list[str]) -> None:
    assert as_set(as_text(words)) == set(words)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ([], "(none)"),
        ("", "(none)"),
        ([2, 1, "2"], "joy, love"),
        ("2 | 1|", "joy, love"),
        (3, "deep sorrow"),
        ([3.0], "deep sorrow"),
        (["4", "1"], "joy"),  # of a label without a word nothing is said
        ("4", "(none)"),
    ],
)
def test_forms_of_labels(value: Any, label: str, tmp_path: Path) -> None:
    written(tmp_path, [{"text": f"thing {i}", "moods": value} for i in range(9)])
    rows = load_split(task_of(DEFINITION, "moods.yaml"), "test", data=tmp_path).examples
    assert {row.label for row in rows} == {label}
    assert {row.labels for row in rows} == {as_set(label)}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "line 1: the field 'moods' is empty; a text without labels has"),
        ([1, 5], "line 1: the field 'moods' is '5'; known labels are"),
        ([[1]], "line 1: the field 'moods' is a list; a label is one value"),
        ({"1": True}, "line 1: the field 'moods' is a dict"),
    ],
)
def test_what_is_no_label(value: Any, says: str, tmp_path: Path) -> None:
    written(tmp_path, [{"text": f"thing {i}", "moods": value} for i in range(9)])
    with pytest.raises(UserError, match=says):
        load_split(task_of(DEFINITION, "moods.yaml"), "test", data=tmp_path)


def test_words_that_could_not_be_told_apart() -> None:
    for labels, says in (
        ({"a": "joy, love", "b": "joy"}, "no word is .none., or holds a comma"),
        ({"a": "(none)", "b": "joy"}, "no word is .none."),
        ({}, "multi_label needs labels"),
    ):
        with pytest.raises(UserError, match=says):
            task_of(DEFINITION | {"labels": labels}, "moods.yaml")


def test_a_list_in_a_data_file_says_so_itself(tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": f"thing {i}", "label": ["b", "a"][: i % 3]} for i in range(200)])
    task = load_task(path)
    assert (task.multi_label, task.label_words, task.metric) == (True, ("a", "b"), "micro_f1")
    parts = {name: len(load_split(task, name).examples) for name in ("train", "validation", "test")}
    assert parts == {"train": 180, "validation": 20, "test": 200}  # a tenth, whatever its labels
    with pytest.raises(UserError, match="multi-label: is for a data file; film says itself"):
        load_task("film", multi_label=True)
    with pytest.raises(UserError, match="multi_label is for labels, and with free_text there are none"):
        load_task(path, multi_label=True, free_text=True)


def test_one_label_where_a_later_row_has_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": f"thing {i}", "label": "b" if i else "a"} for i in range(9)])
    path.write_text(path.read_text() + '{"text": "one more", "label": ["a", "b"]}\n')
    with pytest.raises(UserError, match=r"line 10: the field 'label' is a list; a label is one value \(with several"):
        load_split(load_task(path), "test")

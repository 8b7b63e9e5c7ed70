"""Evaluation inputs are found in any case and punctuation, and nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from preface.errors import UserError
from preface.pretraining import keep_out as module
from preface.pretraining.keep_out import RUN, SHORTEST, KeepOut, Match
from preface.tasks import load_split

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
SHORT = "it is not a long film"
TINY = "a good film"
OUT = KeepOut([("long", LONG), ("short", SHORT), ("tiny", TINY)])


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (SHORT, "short"),
        ("They say: 'It is -- NOT a\nlong film!' But it is.", "short"),
        (f"zero {LONG} fifteen", "long"),
        ("so two THREE, four five six seven eight nine ten; eleven (twelve) thirteen more", "long"),
        ("two three four five six seven eight nine ten eleven twelve", None),
        ("two three four five six seven eight nine ten eleven and twelve thirteen", None),
        ("it is not a very long film", None),
        ("it is not a long filmmaker", None),
        ("A good film.", "tiny"),
        ("This is a good film.", None),
        ("!?", None),
        ("", None),
    ],
)
def test_what_matches(text: str, task: str | None) -> None:
    assert {match.task for match in OUT.find(text)} == ({task} if task else set())
    assert OUT.matches(text) == bool(task)


def test_a_match_says_where_it_stands() -> None:
    text = "They said: «It is NOT a long, film», and left."
    (match,) = OUT.find(text)
    assert match == Match(text.index("It"), text.index("»"), "short", SHORT)
    assert text[match.start : match.end] == "It is NOT a long, film"


def test_an_input_has_as_many_runs_as_it_has_words_to_begin_one() -> None:
    assert len(OUT.find(LONG)) == len(LONG.split()) - RUN + 1


@pytest.mark.parametrize("text", ["İ am ΟΔΟΣ in one two three", "ÉTÉ 日本 ΣΊΣΥΦΟΣ'Σ Straße 7 x y"])
def test_case_of_other_alphabets_and_spans(text: str) -> None:
    out = KeepOut([("t", text.replace("İ", "i").lower())])
    (match,) = out.find(f"İİ {text}. End")
    assert (match.start, match.end) == (3, 3 + len(text))


def test_no_inputs_match_nothing() -> None:
    assert KeepOut([]).find("whatever there may be in this text") == []


def test_agreeing_hashes_are_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MULTIPLIER", module.np.uint64(1))  # now the order of words changes no hash
    first, second = "red green blue white black grey", "grey black white blue green red"
    out = KeepOut([("first", first), ("second", second)])
    assert [m.task for m in out.find(second)] == ["second"]
    assert out.find("green red blue white black grey") == []


def naive(inputs: list[tuple[str, str]], text: str) -> set[tuple[int, int]]:
    """First and last word (exclusive) of all matches, by trying each run of each input."""

    def words(text: str) -> list[str]:
        return re.findall("[a-z]+", text.lower())

    found = set()
    there = words(text)
    for _, each in inputs:
        wanted = words(each)
        if len(wanted) < SHORTEST:
            if wanted and wanted == there:
                found.add((0, len(there)))
            continue
        length = min(RUN, len(wanted))
        for i in range(len(wanted) - length + 1):
            for j in range(len(there) - length + 1):
                if wanted[i : i + length] == there[j : j + length]:
                    found.add((j, j + length))
    return found


SENTENCE = st.lists(st.sampled_from(["a", "B", "b.", "c,"]), max_size=16).map(" ".join)
MONOTONE = st.integers(0, 20).map(lambda n: " ".join(["a"] * n))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(SENTENCE | MONOTONE, max_size=5), before=SENTENCE, after=SENTENCE)
def test_equal_to_trying_everything(texts: list[str], before: str, after: str) -> None:
    inputs = [(f"t{i}", text) for i, text in enumerate(texts)]
    text = " ".join([before, *texts[:1], after])
    spans = [word.span() for word in re.finditer("[a-zA-Z]+", text)]
    expected = {(spans[start][0], spans[end - 1][1]) for start, end in naive(inputs, text)}
    assert {(match.start, match.end) for match in KeepOut(inputs).find(text)} == expected


def test_of_tasks_takes_validation_and_test_only() -> None:
    out = KeepOut.of(["film"])
    for split in ("validation", "test"):
        for example in load_split("film", split).examples:
            assert [m.task for m in out.find(example.text)][:1] == ["film"]
    train = [example.text for example in load_split("film", "train").examples]
    assert sum(map(out.matches, train)) == 0
    assert out.inputs == 250
    assert out.fingerprint == KeepOut.of(["film"]).fingerprint != KeepOut.of(["posts"]).fingerprint


def test_of_tasks_takes_whole_parts_that_train_does_not_use(tmp_path: Path) -> None:
    labels = {0: "negative", 1: "positive", 2: None}
    task = {
        "name": "own",
        "source": {"files": {"parts": {"train": "train.csv", "test": "test.csv"}}},
        "fields": {"input": "text", "label": "label"},
        "labels": labels,
        "splits": {
            "train": {"part": "train"},
            "validation": {"part": "train", "size": 2},
            "test": {"part": "test", "size": 2},
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(task))
    for part in ("train", "test"):
        rows = "".join(f"{part} row number {i} of this file,{i % 3}\n" for i in range(12))
        (tmp_path / f"{part}.csv").write_text(f"text,label\n{rows}")
    out = KeepOut.of([str(tmp_path / "own.yaml")])
    # all of the test part, beyond its size and without a label word too; only the two drawn of the train part
    assert [out.matches(f"test row number {i} of this file") for i in range(12)] == [True] * 12
    assert sum(out.matches(f"train row number {i} of this file") for i in range(12)) == 2


def test_no_such_task() -> None:
    with pytest.raises(UserError, match="films"):
        KeepOut.of(["films"])


def test_each_field_of_a_pair_is_kept_out_too(tmp_path: Path) -> None:
    """A question stands alone in a text, without the passage that the task puts before it."""
    rows = [
        {"passage": f"passage {i} of many", "question": f"is number {i} truly like any other", "label": "yn"[i % 2]}
        for i in range(30)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "pairs",
        "source": {"files": {"parts": {"all": "pairs.jsonl"}}},
        "fields": {"input": ["passage", "question"], "label": "label"},
        "template": "{passage} Question: {question}?",
        "labels": {"y": "yes", "n": "no"},
        "splits": {"train": {"part": "all"}, "test": {"part": "all", "size": 5}},
    }
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(task))
    kept_out = KeepOut.of([str(tmp_path / "pairs.yaml")])
    tests = load_split(tmp_path / "pairs.yaml", "test").examples
    questions = [example.text.split(" Question: ")[1] for example in tests]
    assert all(kept_out.matches(f"They asked: {question} And so on.") for question in questions)
    assert all(kept_out.matches(example.text) for example in tests)
    others = [row["question"] for row in rows if f"{row['question']}?" not in questions]
    assert not any(kept_out.matches(question) for question in others)

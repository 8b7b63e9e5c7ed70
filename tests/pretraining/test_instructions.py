"""Instructions of tasks, their examples, crops of texts, and the mixture of tasks."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preface.errors import UserError
from preface.pretraining.instructions import answers_of, crop, mixing_rates, worded
from preface.tasks import Example, Task, load_split, load_task
from tests.tasks.making import fails, jsonl, pairs, rows, task, texts
from tests.tasks.test_task import SENTIMENT, SHIPPED

REVIEWS = {"imdb", "cr", "sst2", "film", "reviews"}


def with_options(name: str) -> list[Task]:
    options = load_task(name).options
    chosen = product(*([f"{key}={value}" for value in option.values] for key, option in options.items()))
    return [load_task(f"{name}:{','.join(each)}" if each else name) for each in chosen]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_instructions_of_shipped_tasks(name: str) -> None:
    for each in with_options(name):
        templates = [instruction.template for instruction in each.instructions]
        assert len(set(templates)) == len(templates)
        assert 4 <= len(templates) <= 8
        assert ("sentiment: {text}" in templates) == (name in SENTIMENT)
        assert ("review sentiment: {text}" in templates) == (name in REVIEWS)
        named = set(each.layout.names)
        for instruction in each.instructions:
            assert set(instruction.layout.names) == named
            if each.free_text:
                with pytest.raises(UserError, match="its answers are free text"):
                    answers_of(each, instruction)
                continue
            assert set(answers_of(each, instruction)) == set(each.label_words)
            _, options, listed = instruction.template.partition("OPTIONS:")
            assert (
                not options or "{" in listed or all(word in listed for word in answers_of(each, instruction).values())
            )


def worded_split(each: Task, split: str = "train", *, data: Path, **options: Any) -> list[list[Example]]:
    return worded(each, load_split(each, split, data=data).examples, **options)


def test_the_same_rows_under_each_instruction(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [*rows(30), {"text": " Only in\ttest ", "label": 1}])
    jsonl(tmp_path / "test.jsonl", [*rows(4, "TEXT"), {"text": "only  in test", "label": 0}])
    ways = ["kind: {text}", {"template": "{text} {{Good}}?", "answers": {"good": "yes", "bad": "no"}}]
    each = task(instructions=ways)
    for split in ("train", "validation", "test"):
        own = load_split(each, split, data=tmp_path).examples
        first, second = worded_split(each, split, data=tmp_path)
        assert pairs(first) == [(f"kind: {row.text}", row.label) for row in own]
        answer = {"good": "yes", "bad": "no"}
        assert pairs(second) == [(f"{row.text} {{Good}}?", answer[str(row.label)]) for row in own]


def test_several_fields_and_replacements(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [{"a": "<br />one", "b b": "two ", "label": 1}])
    each = task(
        fields={"input": ["a", "b b"], "label": "label"},
        template="({a}) {b b} {a}",
        replace={"<br />": " "},
        splits={"test": {"part": "test"}},
        instructions=["{b b}: {a}{{}}", "{b b}?"],
    )
    assert [pairs(examples) for examples in worded_split(each, "test", data=tmp_path)] == [
        [("two: one{}", "good")],
        [("two?", "good")],
    ]


def test_a_task_without_instructions_has_one_with_its_label_words(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", rows(1))
    (only,) = worded_split(task(), "test", data=tmp_path)
    assert pairs(only) == [("text 0\nOptions: bad, good.\nAnswer:", "bad")]
    braces = task(labels={"0": "{", "1": "b"})
    assert texts(worded_split(braces, "test", data=tmp_path)[0]) == ["text 0\nOptions: {, b.\nAnswer:"]


def test_a_cap_draws_the_same_rows_for_each_instruction(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(45))
    jsonl(tmp_path / "test.jsonl", rows(4, "other"))
    each = task(instructions=["{text}", "a {text}"])
    first, second = worded_split(each, data=tmp_path, cap=7)
    assert len(first) == 7
    assert texts(second) == [f"a {text}" for text in texts(first)]
    whole = texts(load_split(each, "train", data=tmp_path).examples)
    assert texts(first) == [text for text in whole if text in texts(first)]
    assert worded_split(each, data=tmp_path, cap=7)[0] == first
    assert worded_split(each, data=tmp_path, cap=7, seed=1)[0] != first
    assert texts(worded_split(each, data=tmp_path, cap=None)[0]) == whole


def test_texts_are_cropped_but_not_instructions(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", [{"text": "One two three four. " * 50, "label": 1}])
    long = "a b c d e f g h i j: {text}"
    ((example,),) = worded_split(task(instructions=[long]), "test", data=tmp_path, words=8)
    assert example.text == "a b c d e f g h i j: " + " ".join(["One two three four."] * 2)


def test_answers_for_other_words(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", rows(1))
    each = task(instructions=[{"template": "{text}", "answers": {"good": "yes", "poor": "no"}}])
    assert fails(worded_split, each, "test", data=tmp_path) == (
        "mine: instruction '{text}': answers has 'good', 'poor'; give one for each label word: 'bad', 'good'"
    )


def test_mixing_rates_against_the_closed_form() -> None:
    assert mixing_rates({"a": 1_000, "b": 3_000, "c": 50_000}) == pytest.approx({"a": 1 / 7, "b": 3 / 7, "c": 3 / 7})
    assert mixing_rates({"a": 10, "b": 0, "c": 90}) == pytest.approx({"a": 0.1, "b": 0, "c": 0.9})
    assert mixing_rates({"a": 10, "b": 90}, cap=30) == pytest.approx({"a": 0.25, "b": 0.75})
    for sizes in ({}, {"a": 0}):
        with pytest.raises(ValueError, match="needs a task with rows"):
            mixing_rates(sizes)


@given(st.lists(st.sampled_from(["one", "two,", "three.", "four!", 'five."', "?"])), st.integers(1, 9), st.integers())
def test_a_crop_is_a_run_that_begins_with_a_sentence(tokens: list[str], words: int, seed: int) -> None:
    text = "  ".join(tokens)
    cropped = crop(text, words, random.Random(seed))
    assert cropped == crop(text, words, random.Random(seed))
    if len(tokens) <= words:
        assert cropped == text
        return
    run = cropped.split()
    assert words / 2 <= len(run) <= words
    starts = [i for i in range(len(tokens)) if tokens[i : i + words] == run]
    assert any(i == 0 or tokens[i - 1].rstrip('"')[-1] in ".!?" for i in starts)


def test_crops_reach_the_end_of_a_text() -> None:
    rng = random.Random(0)
    assert {crop("a b. c d. e f.", 4, rng) for _ in range(50)} == {"a b. c d.", "c d. e f.", "e f."}
    with pytest.raises(ValueError, match="a crop needs 1 or more"):
        crop("a b", 0, rng)

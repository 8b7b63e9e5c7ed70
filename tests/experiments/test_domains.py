"""The distance of domains, where it is known; and what a report says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import preface
from preface.backbones.base import Backbone
from preface.experiments.domains import domain_distance
from preface.experiments.spec import Experiment, load_experiment
from preface.options import validated

WORDS = ("one", "two", "three", "four", "five")
TEXTS = [f"{WORDS[i % 5]} {WORDS[i // 5 % 5]}" for i in range(100)]


def test_the_same_texts_are_at_no_distance_and_other_words_at_two() -> None:
    assert domain_distance(TEXTS, TEXTS) < 0.4
    assert domain_distance(TEXTS, [text.replace("o", "x").replace("e", "y") for text in TEXTS]) == pytest.approx(2)


def test_half_of_the_texts_told_apart_is_half_the_distance() -> None:
    """Where half of one side's texts are in other words, one in four of all cannot be told: e = 1/4."""
    other = [text if i % 2 else "unheard of" for i, text in enumerate(TEXTS)]
    assert domain_distance(TEXTS, other) == pytest.approx(1, abs=0.3)


def test_a_report_says_how_far_domains_are_apart(nano: Backbone, tmp_path: Path) -> None:
    fields = {"title": "t", "train_task": "film", "eval_tasks": ["film", "posts"], "columns": ["tf-idf"]}
    preface.compare_cross_domain(validated(Experiment, fields | {"distances": True}), out=tmp_path, backbone=nano)
    assert (
        "From the training texts of film the test texts are so far apart: film 0."
        in (tmp_path / "report.html").read_text()
    )


def test_every_task_trained_on_is_known() -> None:
    assert load_experiment("domain-shift").train_tasks() == ["sst2", "semeval_twitter", "cr", "mpqa"]
    assert load_experiment("demo").train_tasks() == ["film"]

"""Metrics against scikit-learn's, and a task's choice among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from preface.errors import UserError
from preface.tasks import load_task
from preface.tasks.metric import METRIC_NAMES, metric
from preface.tasks.registry import task_of

WORD = st.sampled_from(["a", "b", "c", "elsewhere"])


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=30))
def test_metrics_are_scikit_learn_s(rows: list[tuple[str, str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    assert metric("accuracy", gold, said) == pytest.approx(accuracy_score(gold, said))
    wanted = f1_score(gold, said, average="macro", labels=sorted(set(gold)), zero_division=0)
    assert metric("macro_f1", gold, said) == pytest.approx(wanted)


def test_an_unknown_metric() -> None:
    with pytest.raises(UserError, match="accuracy, macro_f1"):
        metric("bleu", ["a"], ["a"])


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_every_name_is_a_metric_that_a_task_may_have(name: str) -> None:
    definition = load_task("film").model_dump() | {"metric": name}
    assert task_of(definition, "mine.yaml").metric == name
    assert metric(name, ["a", "b", "a"], ["a", "b", "a"]) == 1

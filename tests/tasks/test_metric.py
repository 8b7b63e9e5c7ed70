"""Metrics against scikit-learn's, and a task's choice among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from preface.errors import UserError
from preface.tasks import load_task
from preface.tasks.metric import METRIC_NAMES, OF_TEXT, metric, metric_title
from preface.tasks.registry import task_of

WORD = st.sampled_from(["a", "b", "c", "elsewhere"])


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=30))
def test_metrics_are_scikit_learn_s(rows: list[tuple[str, str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    assert metric("accuracy", gold, said) == pytest.approx(accuracy_score(gold, said))
    wanted = f1_score(gold, said, average="macro", labels=sorted(set(gold)), zero_division=0)
    assert metric("macro_f1", gold, said) == pytest.approx(wanted)
    assert metric("matthews", gold, said) == pytest.approx(matthews_corrcoef(gold, said))


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=30))
def test_f1_of_a_label_and_means(rows: list[tuple[str, str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    wanted = f1_score([g == "a" for g in gold], [s == "a" for s in said], zero_division=0)
    assert metric("f1:a", gold, said) == pytest.approx(wanted)
    mean = (metric("accuracy", gold, said) + metric("f1:a", gold, said)) / 2
    assert metric("accuracy+f1:a", gold, said) == pytest.approx(mean)


def test_a_group_is_right_where_all_its_rows_are() -> None:
    gold, said = ["a", "b", "a", "a", "b"], ["a", "b", "b", "a", "b"]
    assert metric("exact", gold, said, ["x", "y", "x", "y", "z"]) == pytest.approx(2 / 3)
    assert metric("exact", gold, said) == metric("accuracy", gold, said)


@pytest.mark.parametrize(
    ("said", "exact", "f1"),
    [
        ("the Mat!", 1, 1),
        ("on a mat", 0, 2 / 3),
        ("cat", 0, 0),
        ("", 0, 0),
        ("red mat, red mat", 0, 2 / 5),
    ],
)
def test_metrics_of_text_are_squad_s(said: str, exact: float, f1: float) -> None:
    """Worked by hand by the official rules: lower case, no punctuation, no articles, the best of the answers."""
    assert metric("exact_text", [("nothing", "mat"), ("so",)], [said, "so"]) == pytest.approx((exact + 1) / 2)
    assert metric("text_f1", [("nothing", "mat"), ("so",)], [said, "so"]) == pytest.approx((f1 + 1) / 2)


def test_titles_of_metrics() -> None:
    assert metric_title("f1:yes+exact") == "mean of F1 of yes and exact match"
    assert metric_title("macro_f1") == "macro-F1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f1:perhaps", "no label is called so; there are negative, positive"),
        ("accuracy+best", "'best' is none of"),
        ("text_f1", "text_f1 is for free text; give one of accuracy"),
    ],
)
def test_metrics_that_do_not_suit_a_task(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        task_of(load_task("film").model_dump() | {"metric": name}, "mine.yaml")


NUMBER = st.sampled_from([f"{place / 5:.1f}" for place in range(26)])


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=2, max_size=30))
def test_correlations_are_scipy_s(rows: list[tuple[str, str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    numbers = [float(label) for label in gold], [float(label) for label in said]
    varied = all(len(set(column)) > 1 for column in numbers)
    for name, expected in (("pearson", pearsonr), ("spearman", spearmanr)):
        assert metric(name, gold, said) == pytest.approx(expected(*numbers)[0] if varied else 0.0, abs=1e-9)


def test_correlations_are_of_numbers() -> None:
    with pytest.raises(UserError, match="pearson needs label words that are numbers, not 'negative'"):
        task_of(load_task("film").model_dump() | {"metric": "pearson"}, "mine.yaml")


def test_an_unknown_metric() -> None:
    with pytest.raises(UserError, match="accuracy, macro_f1, matthews"):
        metric("bleu", ["a"], ["a"])


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_every_name_is_a_metric_that_a_task_may_have(name: str) -> None:
    labels = {} if name in OF_TEXT else {"negative": "0.0", "positive": "1.0"}
    several = {"multi_label": name == "micro_f1"}
    definition = load_task("film").model_dump() | {"metric": name, "labels": labels, "instructions": ()} | several
    assert task_of(definition, "mine.yaml").metric == name
    gold = ["0.0", "1.0", "0.0"]
    assert metric(name, [(one,) for one in gold] if name in OF_TEXT else gold, gold) == pytest.approx(1)


SETS = st.frozensets(st.sampled_from("abcd"))


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=30))
def test_metrics_of_several_labels_are_scikit_learn_s(rows: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    there, given = ([[label in row for label in "abcd"] for row in column] for column in (gold, said))
    assert metric("micro_f1", gold, said) == pytest.approx(f1_score(there, given, average="micro", zero_division=0))
    assert metric("exact", gold, said) == pytest.approx(accuracy_score(there, given))
    occurring = [place for place in range(4) if any(row[place] for row in there)]
    wanted = f1_score(there, given, labels=occurring, average="macro", zero_division=0) if occurring else 0.0
    assert metric("macro_f1", gold, said) == pytest.approx(wanted)
    one = f1_score([row[0] for row in there], [row[0] for row in given], zero_division=0)
    assert metric("f1:a", gold, said) == pytest.approx(one)


@pytest.mark.parametrize(
    ("multi_label", "name", "says"),
    [
        (True, "accuracy", "is not for several labels a text; give one of micro_f1, macro_f1, exact"),
        (True, "f1:perhaps", "no label is called so"),
        (False, "micro_f1", "is for several labels a text"),
    ],
)
def test_metrics_of_several_labels_are_for_such_tasks(multi_label: bool, name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        task_of(load_task("film").model_dump() | {"metric": name, "multi_label": multi_label}, "mine.yaml")

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from preface.errors import UserError
from preface.insight.answers import (
    Answers,
    answers_of,
    answers_of_several,
    read_answers,
    reliability,
    rich_table,
    write_answers,
)

WORDS = ("negative", "neutral", "positive")


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    found = []
    for number in range(draw(st.integers(1, 40))):
        probabilities = generator.dirichlet([1, 1, 1])
        found.append(
            {
                "text": f"text <{number}>",
                "gold": str(generator.choice(WORDS)),
                "label": WORDS[int(probabilities.argmax())],
                "probabilities": dict(zip(WORDS, probabilities.tolist(), strict=True)),
            }
        )
    return found


@given(rows())
def test_labels_and_confusions_are_scikit_learns(some: list[dict[str, Any]]) -> None:
    found = answers_of(some, WORDS)
    gold, said = [row["gold"] for row in some], [row["label"] for row in some]
    expected = precision_recall_fscore_support(gold, said, labels=WORDS, zero_division=0)
    actual = [[getattr(label, name) for label in found.labels] for name in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(actual, expected)
    counts = [[found.confusion.get(right, {}).get(given, 0) for given in WORDS] for right in WORDS]
    np.testing.assert_array_equal(counts, confusion_matrix(gold, said, labels=WORDS))


@given(rows())
def test_the_calibration_error_is_guo_s(some: list[dict[str, Any]]) -> None:
    """Σ over bins of their share of the rows times |accuracy − confidence|."""
    found = answers_of(some, WORDS)
    sure = np.array([max(row["probabilities"].values()) for row in some])
    right = np.array([row["gold"] == row["label"] for row in some])
    places = np.minimum((sure * 10).astype(int), 9)
    error = sum(
        (places == bin).mean() * abs(right[places == bin].mean() - sure[places == bin].mean()) for bin in set(places)
    )
    assert found.error == pytest.approx(error)
    assert sum(bin.rows for bin in found.bins) == len(some)


@given(rows())
def test_mistakes_are_wrong_and_the_surest_come_first(some: list[dict[str, Any]]) -> None:
    found = answers_of(some, WORDS)
    wrong = [max(row["probabilities"].values()) for row in some if row["gold"] != row["label"]]
    assert [mistake.probability for mistake in found.mistakes] == sorted(wrong, reverse=True)[:10]
    assert all(mistake.gold != mistake.label for mistake in found.mistakes)


@pytest.fixture
def found() -> Answers:
    some = [
        {
            "text": f"<b>{i}</b>",
            "gold": WORDS[i % 3],
            "label": WORDS[i % 2],
            "probabilities": dict.fromkeys(WORDS, 1 / 3),
        }
        for i in range(12)
    ]
    return answers_of(some, WORDS)


def test_a_page_a_picture_and_a_table(found: Answers, tmp_path: Path) -> None:
    write_answers(found, "prefix on <posts>", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "prefix on &lt;posts&gt;" in page
    assert "&lt;b&gt;2&lt;/b&gt;" in page
    assert "<script" not in page
    assert "expected calibration error" in page
    assert len(reliability(found).axes) == 1
    assert rich_table(found, "prefix").row_count == 3


def test_generated_answers_have_no_probabilities(tmp_path: Path) -> None:
    lines = [{"text": "a", "gold": "yes", "label": "perhaps", "probabilities": None}]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_answers(file)
    assert (found.bins, found.error, found.mistakes) == ((), None, ())
    write_answers(found, "free", tmp_path / "page.html")
    assert "(none of the labels)" in (tmp_path / "page.html").read_text()
    assert read_answers(file, words=["yes", "perhaps"]).confusion == {"yes": {"perhaps": 1}}


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=r"other\.jsonl: not a file of predictions"):
        read_answers(file)


def test_unusual_line_ends_are_part_of_a_text(tmp_path: Path) -> None:
    rows = [
        {"text": "one\u2028two\u0085three", "gold": "yes", "label": "yes", "probabilities": {"yes": 1.0, "no": 0.0}}
    ]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_answers(file).n == 1


@st.composite
def several(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that may have several labels."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    found = []
    for number in range(draw(st.integers(1, 40))):
        probabilities = dict(zip(WORDS, generator.random(3).tolist(), strict=True))
        gold = [word for word in WORDS if generator.random() < 0.5]
        said = [word for word in WORDS if probabilities[word] > 0.5]
        texts = {"gold": ", ".join(gold) or "(none)", "label": ", ".join(said) or "(none)"}
        found.append({"text": f"text {number}", **texts, "probabilities": probabilities})
    return found


@given(several())
def test_several_labels_are_scikit_learns(some: list[dict[str, Any]]) -> None:
    found = answers_of_several(some, WORDS)
    gold, said = ([[word in row[part] for word in WORDS] for row in some] for part in ("gold", "label"))
    expected = precision_recall_fscore_support(gold, said, zero_division=0)
    actual = [[getattr(label, name) for label in found.labels] for name in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(actual, expected)
    assert found.accuracy == pytest.approx(accuracy_score(gold, said))
    # each label is an answer of yes or no
    yes = np.array([[row["probabilities"][word] for word in WORDS] for row in some]).ravel()
    sure, right = np.maximum(yes, 1 - yes), np.array(gold).ravel() == np.array(said).ravel()
    places = np.minimum((sure * 10).astype(int), 9)
    error = sum(
        (places == bin).mean() * abs(right[places == bin].mean() - sure[places == bin].mean()) for bin in set(places)
    )
    assert found.error == pytest.approx(error)
    assert all(mistake.gold != mistake.label for mistake in found.mistakes)


def test_a_page_of_several_labels(tmp_path: Path) -> None:
    probabilities = {"negative": 0.2, "neutral": 0.9, "positive": 0.6}
    row = {"text": "so", "gold": "neutral", "label": "neutral, positive", "probabilities": probabilities}
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(row) + "\n")
    write_answers(read_answers(file, multi_label=True), "several", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "all labels right in 0.0" in page
    assert "What is taken for what" not in page
    assert "neutral, positive" in page

"""TF-IDF against a logistic regression that is fitted here, by hand, on counts made here."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from preface.baselines.logistic_regression import STRENGTHS, Fitted
from preface.baselines.tfidf import fit_tfidf
from preface.errors import UserError

TEXTS = ["a fine warm film", "warm and fine", "dull cold film", "cold and dull plot"] * 5
LABELS = ["positive", "positive", "negative", "negative"] * 5


def noisy(rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Rows of eight words, of which a label's own are only somewhat more frequent."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    words = [random.choice(40, 8, p=(w := np.r_[np.full(20, 1 + k), np.full(20, 2 - k)]) / w.sum()) for k in labels]
    return [" ".join(f"word{i}" for i in row) for row in words], [("negative", "positive")[k] for k in labels]


def costs_of(pipeline: Pipeline) -> Fitted:
    return Fitted.of(pipeline["classifier"], pipeline["words"], lambda split: None)


def grams(text: str) -> list[str]:
    """Words and pairs of words."""
    words = text.split()
    return words + [" ".join(pair) for pair in pairwise(words)]


def by_hand(texts: list[str], vocabulary: list[str], idf: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sublinear TF-IDF of words and pairs, rows of length 1: [rows, n-grams]; and smoothed idf: [n-grams]."""
    counts = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for gram in grams(text):
            if gram in vocabulary:
                counts[row, vocabulary.index(gram)] += 1
    if idf is None:
        idf = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12), idf


def test_it_learns_what_is_to_be_learnt() -> None:
    pipeline = fit_tfidf(TEXTS, LABELS, TEXTS[:4], LABELS[:4])
    assert list(pipeline.predict(["a warm plot", "cold cold cold"])) == ["positive", "negative"]


def test_the_gradient_of_the_penalised_loss_is_zero_on_features_made_by_hand() -> None:
    texts, labels = noisy(120, seed=0)
    pipeline = fit_tfidf(texts, labels, *noisy(60, seed=1))
    classifier, vocabulary = pipeline["classifier"], list(pipeline["words"].get_feature_names_out())
    assert vocabulary == sorted({gram for text in texts for gram in grams(text)})
    features, idf = by_hand(texts, vocabulary)
    new = noisy(20, seed=2)[0]

    weights = classifier.coef_[0]
    error = 1 / (1 + np.exp(-features @ weights - classifier.intercept_)) - (np.array(labels) == "positive")
    np.testing.assert_allclose(weights + classifier.C * features.T @ error, 0, atol=0.02)
    np.testing.assert_allclose(error.sum(), 0, atol=0.02)
    scores = by_hand(new, vocabulary, idf)[0] @ weights + classifier.intercept_
    np.testing.assert_allclose(pipeline.decision_function(new), scores)
    assert costs_of(pipeline).parameters == len(vocabulary) + 1


def test_the_development_rows_choose_the_strength() -> None:
    train, dev = noisy(300, seed=3), noisy(200, seed=4)
    chosen = fit_tfidf(*train, *dev)

    from sklearn.linear_model import LogisticRegression

    features, dev_features = (chosen["words"].transform(rows[0]) for rows in (train, dev))
    right = [
        np.mean(LogisticRegression(C=c, max_iter=1000).fit(features, train[1]).predict(dev_features) == dev[1])
        for c in STRENGTHS
    ]
    assert len(set(right)) > 1
    assert STRENGTHS[int(np.argmax(right))] == chosen["classifier"].C


def test_of_equals_the_strongest_regularisation() -> None:
    assert min(STRENGTHS) == fit_tfidf(TEXTS, LABELS, TEXTS, LABELS)["classifier"].C


def test_nothing_is_random() -> None:
    train, dev = noisy(100, seed=5), noisy(50, seed=6)
    first, second = (fit_tfidf(*train, *dev)["classifier"].coef_ for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("rows", "kept"), [(1_999, True), (2_000, False)])
def test_single_occurrences_count_only_where_rows_are_few(rows: int, kept: bool) -> None:
    texts = [*(TEXTS * 100)[: rows - 1], "unheard"]
    labels = (LABELS * 100)[:rows]
    pipeline = fit_tfidf(texts, labels, TEXTS, LABELS)
    assert ("unheard" in pipeline["words"].vocabulary_) == kept


def test_three_labels() -> None:
    pipeline = fit_tfidf(TEXTS + ["so so"] * 10, LABELS + ["neutral"] * 10, TEXTS, LABELS)
    assert pipeline.predict(["so so"])[0] == "neutral"
    assert costs_of(pipeline).parameters == 3 * (len(pipeline["words"].vocabulary_) + 1)


def test_its_words_are_stored_with_it() -> None:
    few, many = (fit_tfidf(*noisy(rows, seed=0), *noisy(50, seed=1)) for rows in (20, 200))
    assert costs_of(few).stored_bytes < costs_of(many).stored_bytes
    words = sum(len(word) for word in many["words"].vocabulary_)
    assert costs_of(many).stored_bytes > words + 8 * costs_of(many).parameters


@pytest.mark.parametrize(
    ("train", "dev", "said"),
    [
        ((["fine"], ["positive"]), (TEXTS, LABELS), "two labels.*positive"),
        (([], []), (TEXTS, LABELS), "two labels.*none"),
        ((TEXTS, LABELS), ([], []), "development rows"),
        ((["!", "?"], ["positive", "negative"]), (TEXTS, LABELS), "no words"),
    ],
)
def test_rows_that_allow_no_classifier(train: tuple, dev: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit_tfidf(*train, *dev)


def test_scikit_learn_is_imported_where_it_is_used() -> None:
    code = "import sys, preface.baselines.tfidf; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

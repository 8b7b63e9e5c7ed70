"""TF-IDF and logistic regression: seconds on one core, and the number that a soft prompt has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from preface.baselines.column import Setting
from preface.baselines.logistic_regression import (
    Classifier,
    Fitted,
    check_labels,
    fit_classifier,
    labels_of,
)
from preface.errors import UserError
from preface.tasks import Split

if TYPE_CHECKING:  # scikit-learn is slow to import, so only fitting does
    from sklearn.pipeline import Pipeline

RARE_WORDS_FROM = 2_000
"""Training rows from which an n-gram must occur in two of them; fewer rows can spare none."""


def fit_tfidf(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    dev_texts: Sequence[str] | None = None,
    dev_labels: Sequence[str] | None = None,
) -> Pipeline:
    """Fit on the training rows, with the `C` that is most often right on the development rows; without them, by
    cross-validation.

    Features are words and pairs of words, sublinear in their count; of equally good `C`s the smallest wins.
    Returns a pipeline whose `predict(texts)` gives an array of labels, [rows]. Nothing in it is random.
    Raises `UserError` where the rows allow no classifier: one label only, no words, or no development rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

    check_labels("tf-idf", train_labels, dev_labels)
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train_texts) >= RARE_WORDS_FROM else 1
    )
    try:
        train = words.fit_transform(train_texts)
    except ValueError as error:
        raise UserError(f"tf-idf finds no words in {len(train_texts):,} training rows: {error}") from error
    dev = None if dev_texts is None else words.transform(dev_texts)
    classifier = fit_classifier(train, train_labels, dev, dev_labels)
    return Pipeline([("words", words), ("classifier", classifier)])


class TfIdf(Classifier):
    """The baseline on the very rows that the prompts see."""

    kind: ClassVar[str] = "tf-idf"

    def fit(self, setting: Setting, training: Split, development: Split | None) -> Fitted:
        held_out = (texts_of(development), labels_of(development)) if development else (None, None)
        model = fit_tfidf(texts_of(training), labels_of(training), *held_out)
        words = model["words"]
        return Fitted.of(model["classifier"], words, lambda split: words.transform(texts_of(split)))


def texts_of(split: Split) -> list[str]:
    """`[rows]`."""
    return [example.text for example in split.examples]

"""TF-IDF and logistic regression: seconds on one core, and the number that a soft prompt has to beat."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from preface.baselines.column import Setting, Trained
from preface.errors import UserError
from preface.labelling.measures import measured
from preface.records.results import Cell
from preface.tasks import Split, Task

if TYPE_CHECKING:  # scikit-learn is slow to import, so only fitting does
    from sklearn.pipeline import Pipeline

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Inverse regularisation strengths `C` to choose from, strongest regularisation first."""

RARE_WORDS_FROM = 2_000
"""Training rows from which an n-gram must occur in two of them; fewer rows can spare none."""


def fit_tfidf(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    dev_texts: Sequence[str],
    dev_labels: Sequence[str],
) -> Pipeline:
    """Fit on the training rows, with the `C` that is most often right on the development rows.

    Features are words and pairs of words, sublinear in their count; of equally good `C`s the smallest wins.
    Returns a pipeline whose `predict(texts)` gives an array of labels, [rows]. Nothing in it is random.
    Raises `UserError` where the rows allow no classifier: one label only, no words, or no development rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    if len(found := sorted(set(train_labels))) < 2:
        raise UserError(f"tf-idf needs training rows of two labels or more; found {', '.join(found) or 'none'}")
    if not dev_texts:
        raise UserError("tf-idf chooses its regularisation on development rows; give at least one")

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train_texts) >= RARE_WORDS_FROM else 1
    )
    try:
        train = words.fit_transform(train_texts)
    except ValueError as error:
        raise UserError(f"tf-idf finds no words in {len(train_texts):,} training rows: {error}") from error
    dev = words.transform(dev_texts)

    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(train, train_labels) for strength in STRENGTHS]
    best = max(fitted, key=lambda classifier: classifier.score(dev, dev_labels))  # the first of equals
    return Pipeline([("words", words), ("classifier", best)])


def trained_parameters(pipeline: Pipeline) -> int:
    """Weights and biases of the fitted classifier; the vocabulary's document frequencies are not counted."""
    classifier = pipeline["classifier"]
    return int(classifier.coef_.size + classifier.intercept_.size)


class TfIdf(Trained):
    """The baseline on the very rows that the prompts see."""

    kind: ClassVar[str] = "tf-idf"

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        trained_on = setting.task(self.train_task)
        began = time.perf_counter()
        training = texts_and_labels(setting.split(trained_on, "train", self.train_rows))
        model = fit_tfidf(*training, *texts_and_labels(setting.split(trained_on, "validation")))
        details = {"train_seconds": time.perf_counter() - began}
        for task in tasks:
            texts, gold = texts_and_labels(setting.split(task, "test"))
            began = time.perf_counter()
            predicted = [str(label) for label in model.predict(texts)]
            value, measures = measured(task.metric, gold, predicted, task.label_words)
            cell = Cell(
                backbone="",
                method=self.label,
                train_task=trained_on.name,
                eval_task=task.name,
                metric=task.metric,
                value=value,
                n=len(gold),
                seed=None,
                trained_parameters=trained_parameters(model),
                seconds=time.perf_counter() - began,
                details=details | measures,
            )
            yield [cell]


def texts_and_labels(split: Split) -> tuple[list[str], list[str]]:
    """Two lists, [rows]."""
    return [example.text for example in split.examples], [str(example.label) for example in split.examples]

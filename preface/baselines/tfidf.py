"""TF-IDF and logistic regression: seconds on one core, and the number that a soft prompt has to beat."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from preface.baselines.column import Setting, Trained
from preface.baselines.logistic_regression import check_labels, fit_classifier, trained_parameters
from preface.errors import UserError
from preface.records.results import Cell
from preface.tasks import Split, Task

if TYPE_CHECKING:  # scikit-learn is slow to import, so only fitting does
    from sklearn.pipeline import Pipeline

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
    from sklearn.pipeline import Pipeline

    check_labels("tf-idf", train_labels, dev_labels)
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train_texts) >= RARE_WORDS_FROM else 1
    )
    try:
        train = words.fit_transform(train_texts)
    except ValueError as error:
        raise UserError(f"tf-idf finds no words in {len(train_texts):,} training rows: {error}") from error
    classifier = fit_classifier(train, train_labels, words.transform(dev_texts), dev_labels)
    return Pipeline([("words", words), ("classifier", classifier)])


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
            yield [
                self.cell(
                    task,
                    gold,
                    predicted,
                    words=task.label_words,
                    trained_on=trained_on.name,
                    seconds=time.perf_counter() - began,
                    trained_parameters=trained_parameters(model["classifier"]),
                    details=details,
                )
            ]


def texts_and_labels(split: Split) -> tuple[list[str], list[str]]:
    """Two lists, [rows]."""
    return [example.text for example in split.examples], [str(example.label) for example in split.examples]

"""Logistic regression on features of a text, its regularisation chosen on development rows."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from preface.baselines.column import Setting, Trained
from preface.errors import UserError
from preface.records.results import Cell
from preface.tasks import Split, Task

if TYPE_CHECKING:  # scikit-learn is slow to import, so only fitting does
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Inverse regularisation strengths `C` to choose from, strongest regularisation first."""


def check_labels(name: str, train_labels: Sequence[str], dev_labels: Sequence[str]) -> None:
    """Raise UserError where these rows allow no classifier; `name` is the baseline's."""
    if len(found := sorted(set(train_labels))) < 2:
        raise UserError(f"{name} needs training rows of two labels or more; found {', '.join(found) or 'none'}")
    if not dev_labels:
        raise UserError(f"{name} chooses its regularisation on development rows; give at least one")


def fit_classifier(
    train: Any, train_labels: Sequence[str], dev: Any, dev_labels: Sequence[str], strengths: Sequence[float] = STRENGTHS
) -> LogisticRegression:
    """Fit on `train` `[rows, features]`, with the strength that is most often right on `dev`; of equals the least."""
    from sklearn.linear_model import LogisticRegression

    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(train, train_labels) for strength in strengths]
    return max(fitted, key=lambda classifier: classifier.score(dev, dev_labels))  # the first of equals


def trained_parameters(classifier: LogisticRegression) -> int:
    """Weights and biases."""
    return int(classifier.coef_.size + classifier.intercept_.size)


class Classifier(Trained):
    """A column of logistic regression, on features that its kind makes of texts."""

    @abstractmethod
    def fit(self, setting: Setting, training: Split, development: Split) -> tuple[Callable[[Split], Any], int]:
        """Fit; what predicts the labels of a split, `[rows]`, and how many parameters were trained."""

    def backbone_name(self, setting: Setting) -> str:
        """What the features come from; empty: no model."""
        return ""

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        trained_on, backbone = setting.task(self.train_task), self.backbone_name(setting)
        began = time.perf_counter()
        training = setting.split(trained_on, "train", self.train_rows)
        predict, parameters = self.fit(setting, training, setting.split(trained_on, "validation"))
        details = {"train_seconds": time.perf_counter() - began}
        for task in tasks:
            split = setting.split(task, "test")
            began = time.perf_counter()
            predicted = [str(label) for label in predict(split)]
            yield [
                self.cell(
                    task,
                    split.examples,
                    predicted,
                    words=task.label_words,
                    trained_on=trained_on.name,
                    seconds=time.perf_counter() - began,
                    backbone=backbone,
                    trained_parameters=parameters,
                    details=details,
                )
            ]


def labels_of(split: Split) -> list[str]:
    """`[rows]`."""
    return [str(example.label) for example in split.examples]

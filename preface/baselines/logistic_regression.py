"""Logistic regression on features of a text, its regularisation chosen on development rows."""

from __future__ import annotations

import pickle
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from preface.backbones.base import Backbone
from preface.baselines.column import Setting, Trained, each_seed
from preface.errors import UserError
from preface.labelling.multi_label import NO, YES
from preface.records.results import STORED, Cell
from preface.tasks import Split, Task
from preface.tasks.label_sets import as_text
from preface.tasks.split import check_limits

if TYPE_CHECKING:  # scikit-learn is slow to import, so only fitting does
    from sklearn.linear_model import LogisticRegression

FOLDS = 4
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Inverse regularisation strengths `C` to choose from, strongest regularisation first."""


def check_labels(name: str, train_labels: Sequence[str], dev_labels: Sequence[str] | None) -> None:
    """Raise UserError where these rows allow no classifier; `name` is the baseline's."""
    if len(found := sorted(set(train_labels))) < 2:
        raise UserError(f"{name} needs training rows of two labels or more; found {', '.join(found) or 'none'}")
    if dev_labels is not None and not dev_labels:
        raise UserError(f"{name} chooses its regularisation on development rows; give at least one")


def fit_classifier(
    train: Any,
    train_labels: Sequence[str],
    dev: Any,
    dev_labels: Sequence[str] | None,
    strengths: Sequence[float] = STRENGTHS,
) -> LogisticRegression:
    """Fit on `train` `[rows, features]`, with the strength that is most often right on `dev`; of equals the least.

    Without development rows the strength is chosen by cross-validation, of `FOLDS` folds or as many as the rarest label
    has rows; with one row of a label it is the middle one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    if dev_labels is None:
        folds = min(FOLDS, *Counter(train_labels).values())
        if folds < 2:
            return LogisticRegression(C=strengths[len(strengths) // 2], max_iter=1000).fit(train, train_labels)
        tried = GridSearchCV(LogisticRegression(max_iter=1000), {"C": list(strengths)}, cv=folds)
        return tried.fit(train, train_labels).best_estimator_
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(train, train_labels) for strength in strengths]
    return max(fitted, key=lambda classifier: classifier.score(dev, dev_labels))  # the first of equals


def likeliest(classifier: Any, features: Any, words: Sequence[str]) -> list[str]:
    """The label, of some words, that a classifier finds likeliest for each row, `[rows]`; of all its labels, where it
    has learned none of them."""
    known = [str(label) for label in classifier.classes_]
    places = [place for place, label in enumerate(known) if label in words] or range(len(known))
    return [known[places[best]] for best in classifier.predict_proba(features)[:, places].argmax(1)]


@dataclass(frozen=True)
class Fitted:
    """A classifier, and what it costs."""

    predict: Callable[[Split, Sequence[str]], list[str]]
    """The labels, of some words, of the rows of a split, `[rows]`."""
    parameters: int
    """Trained."""
    stored_bytes: int
    """Of all that is needed to predict again, but a backbone."""

    @classmethod
    def of(cls, classifier: LogisticRegression, features: Any, given: Callable[[Split], Any]) -> Fitted:
        """`features`: what was fitted to make a classifier's features, stored with it; `given`: those of a split."""
        return cls(
            lambda split, words: likeliest(classifier, given(split), words),
            int(classifier.coef_.size + classifier.intercept_.size),
            len(pickle.dumps((features, classifier))),
        )


class Classifier(Trained):
    """A column of logistic regression, on features that its kind makes of texts."""

    multi_label: ClassVar[bool] = True
    seeds: int | tuple[int, ...] = 3
    """Of draws of `shots`."""
    shots: int | None = Field(None, ge=1)
    """Rows of each label, drawn anew by each seed; None: all rows, or `train_rows`, once."""

    @abstractmethod
    def fit(self, setting: Setting, training: Split, development: Split | None) -> Fitted:
        """Fit, choosing by cross-validation where there is no development split."""

    def reader(self, setting: Setting) -> Backbone | None:
        """What the features come from; None: no model."""
        return None

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        trained_on, backbone = setting.task(self.train_task), self.reader(setting)
        fitted = []
        for seed in self._draws:
            began = time.perf_counter()
            fit = self._fit_each if trained_on.multi_label else self.fit
            fitted.append((seed, fit(setting, *self._rows(setting, trained_on, seed)), time.perf_counter() - began))
        for task in tasks:
            split, cells, words = setting.split(task, "test"), [], trained_on.words_for(task)
            for seed, classifier, train_seconds in fitted:
                began = time.perf_counter()
                predicted = classifier.predict(split, words)
                cells.append(
                    self.cell(
                        task,
                        split.examples,
                        predicted,
                        words=task.label_words,
                        trained_on=trained_on.name,
                        seconds=time.perf_counter() - began,
                        backbone=backbone,
                        seed=seed,
                        trained_parameters=classifier.parameters,
                        details={"train_seconds": train_seconds, STORED: classifier.stored_bytes},
                    )
                )
            yield cells

    def _fit_each(self, setting: Setting, training: Split, development: Split | None) -> Fitted:
        """As `fit`, where a text may have several labels: a classifier for each label. One that all texts have is
        given to all."""
        counts = Counter(label for example in training.examples for label in example.labels or ())
        fitted = {
            label: self.fit(setting, _asked(training, label), development and _asked(development, label))
            for label, count in counts.items()
            if count < len(training.examples)
        }

        def predict(split: Split, words: Sequence[str]) -> list[str]:
            given = {label: [YES] * len(split.examples) for label in counts}
            given |= {label: asked.predict(split, (NO, YES)) for label, asked in fitted.items()}
            words = [word for word in words if word in given]
            return [as_text([word for word in words if given[word][row] == YES]) for row in range(len(split.examples))]

        parameters = sum(asked.parameters for asked in fitted.values())
        return Fitted(predict, parameters, sum(asked.stored_bytes for asked in fitted.values()))

    @property
    def reads(self) -> Sequence[str]:
        return super().reads if self.shots is None else ()

    def check(self, setting: Setting, tasks: Sequence[Task]) -> None:
        super().check(setting, tasks)
        check_limits(self.train_rows, self.shots, f"{self.label}: ")

    @property
    def _draws(self) -> Sequence[int | None]:
        """The seeds of its draws; None: nothing is drawn."""
        return [None] if self.shots is None else each_seed(self.seeds)

    def _rows(self, setting: Setting, task: Task, draw: int | None) -> tuple[Split, Split | None]:
        """What is fitted to, and what chooses."""
        if self.shots is None or draw is None:
            return self.split(setting, "train"), self.split(setting, "validation")
        return setting.drawn(task, self.shots, draw), None


def _asked(split: Split, label: str) -> Split:
    """The split with one question of each text: whether it has the label."""
    asked = [replace(one, label=YES if label in (one.labels or ()) else NO, labels=None) for one in split.examples]
    return replace(split, examples=asked)


def labels_of(split: Split) -> list[str]:
    """`[rows]`."""
    return [str(example.label) for example in split.examples]

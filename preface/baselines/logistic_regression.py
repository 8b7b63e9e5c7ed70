"""Logistic regression on features of a text, its regularisation chosen on development rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from preface.errors import UserError

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

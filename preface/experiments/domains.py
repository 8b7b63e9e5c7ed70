"""How far the texts of two tasks are apart."""

from __future__ import annotations

import random
from collections.abc import Sequence

from preface.baselines.column import Setting
from preface.experiments.matrix import eval_tasks
from preface.experiments.spec import Experiment
from preface.tasks import Task

ROWS = 500
"""Of each task, at most."""
FOLDS = 5


def domain_distance(one: Sequence[str], other: Sequence[str]) -> float:
    """2 (1 − 2 e), where e is how often a classifier on words errs that tells the two apart, cross-validated.

    0: they cannot be told apart; 2: they always can. The proxy of the A-distance of Ben-David et al. 2007 ("Analysis of
    representations for domain adaptation", section 4), with TF-IDF and logistic regression.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    size = min(len(one), len(other), ROWS)  # at least FOLDS
    texts = [text for side in (one, other) for text in random.Random(0).sample(list(side), size)]
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000))
    try:
        error = 1 - cross_val_score(model, texts, [0] * size + [1] * size, cv=FOLDS).mean()
    except ValueError:  # no text has a word
        return 0.0
    return float(max(0.0, 2 * (1 - 2 * error)))


def distances(experiment: Experiment, setting: Setting) -> list[str]:
    """A line for each task that is trained on: how far its training texts are from the test texts of every task."""
    lines = []
    tests = {task.name: _texts(setting, task, "test") for task in eval_tasks(experiment, setting)}
    for task in map(setting.task, experiment.train_tasks()):
        own = _texts(setting, task, "train")
        if len(own) < FOLDS:
            continue
        apart = {name: domain_distance(own, texts) for name, texts in tests.items() if len(texts) >= FOLDS}
        listed = ", ".join(f"{test} {apart[test]:.2f}" for test in sorted(apart, key=lambda test: apart[test]))
        lines.append(f"From the training texts of {task.name} the test texts are so far apart: {listed}.")
    if lines:
        lines.append("0: a classifier on words cannot tell them apart; 2: it always can (proxy A-distance).")
    return lines


def _texts(setting: Setting, task: Task, split: str) -> list[str]:
    return [example.text for example in setting.split(task, split).examples]

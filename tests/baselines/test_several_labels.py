"""Baselines where a text may have several labels: one classifier a label, or a plain refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from preface.baselines.column import Setting
from preface.baselines.in_context import InContext
from preface.baselines.tfidf import TfIdf, fit_tfidf, texts_of
from preface.errors import UserError
from preface.tasks import DataOptions, load_split

WORDS = ("a", "b", "c")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """`a` depends on the text, all have `b`, and `c` is seldom right."""
    lines = [
        {"text": f"{('bad', 'good')[i % 2]} {i}", "label": ["a", "b"] if i % 2 else ["c", "b"] if i % 7 == 0 else ["b"]}
        for i in range(100)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_tf_idf_is_one_classifier_a_label(rows: Path, tmp_path: Path) -> None:
    setting = Setting(tmp_path, DataOptions())
    column = TfIdf(train_task=str(rows))
    task = setting.task(str(rows))
    column.check(setting, [task])
    (((cell,),)) = column.cells(setting, [task])

    training, development, test = (load_split(task, name) for name in ("train", "validation", "test"))
    there = {s.split: [[word in (e.labels or ()) for word in WORDS] for e in s.examples] for s in (training, test)}
    chosen = {}  # the strength that is best on the development rows, which is one for each label
    for place, word in ((0, "a"), (2, "c")):
        asked = [["no", "yes"][word in (e.labels or ())] for e in training.examples]
        held = [["no", "yes"][word in (e.labels or ())] for e in development.examples]
        chosen[place] = fit_tfidf(texts_of(training), asked, texts_of(development), held)
    words = chosen[0]["words"]
    expected = np.array(there["test"])
    expected[:, 1] = True
    for place, model in chosen.items():
        alone = OneVsRestClassifier(model["classifier"].__class__(**model["classifier"].get_params()))
        alone.fit(words.transform(texts_of(training)), np.array(there["train"])[:, [place]])
        expected[:, place] = alone.predict(words.transform(texts_of(test))).ravel()
    assert cell.metric == "micro_f1"
    assert cell.value == pytest.approx(f1_score(there["test"], expected, average="micro"))
    assert [label["recall"] for label in cell.details["labels"]][1] == 1


def test_what_gives_one_label_is_refused(rows: Path, tmp_path: Path) -> None:
    setting = Setting(tmp_path, DataOptions())
    with pytest.raises(UserError, match=r"in-context: gives a text one label, and texts of rows\.jsonl may"):
        InContext(backbone="nano", train_task=str(rows)).check(setting, [setting.task(str(rows))])

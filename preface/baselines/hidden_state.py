"""Logistic regression on the mean of a frozen model's last states: what reading is worth without any prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.batching import by_length
from preface.baselines.column import Setting, Trained
from preface.baselines.logistic_regression import check_labels, fit_classifier, trained_parameters
from preface.baselines.tfidf import texts_and_labels
from preface.labelling.labeller import TOKEN_BUDGET
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.records.results import Cell
from preface.tasks import Example, Split, Task, render
from preface.terminal.progress import progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""States have hundreds of features of unit variance, and need stronger regularisation than words."""


class HiddenState(Trained):
    """A classifier on the bare backbone, on the rows that the prompts see."""

    kind: ClassVar[str] = "hidden-state"
    backbone: str

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        from sklearn.preprocessing import StandardScaler

        backbone, trained_on = setting.backbone(self.backbone), setting.task(self.train_task)
        began = time.perf_counter()
        training = setting.split(trained_on, "train", self.train_rows)
        development = setting.split(trained_on, "validation")
        (_, labels), (_, dev_labels) = texts_and_labels(training), texts_and_labels(development)
        check_labels(self.kind, labels, dev_labels)
        scaler = StandardScaler()
        train = scaler.fit_transform(features(backbone, training, trained_on))
        dev = scaler.transform(features(backbone, development, trained_on))
        model = fit_classifier(train, labels, dev, dev_labels, STRENGTHS)
        details = {"train_seconds": time.perf_counter() - began}
        for task in tasks:
            split = setting.split(task, "test")
            began = time.perf_counter()
            predicted = [str(label) for label in model.predict(scaler.transform(features(backbone, split, task)))]
            _, gold = texts_and_labels(split)
            yield [
                self.cell(
                    task,
                    gold,
                    predicted,
                    words=task.label_words,
                    trained_on=trained_on.name,
                    seconds=time.perf_counter() - began,
                    backbone=backbone.name,
                    trained_parameters=trained_parameters(model),
                    details=details,
                )
            ]


def features(backbone: Backbone, split: Split, task: Task) -> Any:
    """An array `[rows, d]`."""
    return mean_states(backbone, split.examples, title=f"{task.name} · {split.split} · states").numpy()


@torch.inference_mode()
def mean_states(
    backbone: Backbone, examples: Sequence[Example], max_input_tokens: int = MAX_INPUT_TOKENS, title: str = ""
) -> Tensor:
    """The mean over its pieces of what the last layer makes of each text, `[N, d]`, float32."""
    ids, _ = render(backbone.tokenize, examples, max_input_tokens)
    means = torch.empty(len(ids), backbone.width)
    with progress(title, len(ids), "rows") as advance:
        for places in by_length([len(item) for item in ids], TOKEN_BUDGET):
            input_ids, mask = backbone.pad([ids[place] for place in places])
            states = backbone.last_states(input_ids, mask).float() * mask[..., None]  # [B, T, d]
            means[places] = (states.sum(1) / mask.sum(1, keepdim=True)).cpu()
            advance(len(places))
    return means

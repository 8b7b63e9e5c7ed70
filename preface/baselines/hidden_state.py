"""Logistic regression on the mean of a frozen model's last states: what reading is worth without any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.batching import by_length
from preface.baselines.column import Setting
from preface.baselines.logistic_regression import (
    Classifier,
    Fitted,
    check_labels,
    fit_classifier,
    labels_of,
)
from preface.labelling.labeller import TOKEN_BUDGET
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.tasks import Example, Split, render
from preface.terminal.progress import progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""States have hundreds of features of unit variance, and need stronger regularisation than words."""


class HiddenState(Classifier):
    """A classifier on the bare backbone, on the rows that the prompts see."""

    kind: ClassVar[str] = "hidden-state"
    backbone: str
    max_input_tokens: int = Field(MAX_INPUT_TOKENS, ge=2)

    def reader(self, setting: Setting) -> Backbone:
        return setting.backbone(self.backbone)

    def fit(self, setting: Setting, training: Split, development: Split | None) -> Fitted:
        from sklearn.preprocessing import StandardScaler

        def features(split: Split) -> Any:
            title = f"{split.task} · {split.split} · states"
            key = backbone.name, split.task, split.split, most, tuple(example.text for example in split.examples)
            return setting.once(key, lambda: mean_states(backbone, split.examples, most, title).numpy())  # [rows, d]

        backbone, scaler, most = setting.backbone(self.backbone), StandardScaler(), self.max_input_tokens
        labels, dev_labels = labels_of(training), labels_of(development) if development else None
        check_labels(self.kind, labels, dev_labels)
        train = scaler.fit_transform(features(training))
        dev = scaler.transform(features(development)) if development else None
        model = fit_classifier(train, labels, dev, dev_labels, STRENGTHS)
        return Fitted.of(model, scaler, lambda split: scaler.transform(features(split)))


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

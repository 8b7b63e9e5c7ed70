"""Cards for prompts that no training has made."""

from __future__ import annotations

from typing import Any

from preface.backbones.base import Backbone
from preface.methods import Method
from preface.records.card import Member, MethodRecord, PromptCard
from preface.tasks import load_task


def card_of(backbone: Backbone, method: Method, **changes: Any) -> PromptCard:
    task = load_task("film")
    fields = {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "shape": backbone.sizes,
        "method": MethodRecord(name=method.name, config=method.model_dump(mode="json")),
        "task": task,
        "label_words": task.label_words,
        "max_input_tokens": 512,
        "trained_parameters": method.counts(backbone).trained,
        "member": Member(0, 0.1, 0, 0.5, 0.7, 1),
        "versions": {},
    }
    return PromptCard(**fields | changes)

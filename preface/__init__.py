"""Preface: soft-prompt tuning of frozen language models. Train the preface, freeze the book.

import preface
backbone = preface.load_backbone()
run = preface.train(backbone, task="film", method=preface.PrefixTuning(length=20), learning_rates=[1e-2], seeds=3)
preface.evaluate(run, on=["film", "reviews"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preface.backbone import DEFAULT, Backbone, load_backbone
    from preface.errors import UserError
    from preface.evaluation import evaluate
    from preface.experiments.cross_domain import compare_cross_domain
    from preface.methods import PrefixTuning, PromptTuning
    from preface.prediction import predict
    from preface.pretraining.making import adapt, pretrain
    from preface.pretraining.tokens import tokenize
    from preface.run import Run
    from preface.show import list_methods
    from preface.tasks import list_tasks
    from preface.timing import bench
    from preface.training import train

_HOMES = {
    "DEFAULT": "backbone",
    "Backbone": "backbone",
    "PrefixTuning": "methods",
    "PromptTuning": "methods",
    "Run": "run",
    "UserError": "errors",
    "adapt": "pretraining.making",
    "bench": "timing",
    "compare_cross_domain": "experiments.cross_domain",
    "evaluate": "evaluation",
    "list_methods": "show",
    "list_tasks": "tasks",
    "load_backbone": "backbone",
    "predict": "prediction",
    "pretrain": "pretraining.making",
    "tokenize": "pretraining.tokens",
    "train": "training",
}
"""Where each public name lives: imported when first used, for torch takes seconds to import."""

__all__ = [
    "DEFAULT",
    "Backbone",
    "PrefixTuning",
    "PromptTuning",
    "Run",
    "UserError",
    "adapt",
    "bench",
    "compare_cross_domain",
    "evaluate",
    "list_methods",
    "list_tasks",
    "load_backbone",
    "predict",
    "pretrain",
    "tokenize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'preface' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"preface.{_HOMES[name]}"), name)
    return value

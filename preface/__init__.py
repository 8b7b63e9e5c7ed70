"""Preface: soft-prompt tuning of frozen language models. Train the preface, freeze the book.

import preface
backbone = preface.load_backbone()
run = preface.train(backbone, task="film", method=preface.PrefixTuning(length=20), learning_rates=[1e-2], seeds=3)
preface.evaluate(run, on=["film", "reviews"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preface.backbones.base import Backbone as Backbone
    from preface.backbones.load import default_backbone as default_backbone
    from preface.backbones.load import load_backbone as load_backbone
    from preface.backbones.machine import doctor as doctor
    from preface.classifier import PromptClassifier as PromptClassifier
    from preface.errors import UserError as UserError
    from preface.exchange.exporting import export_prompt as export_prompt
    from preface.exchange.importing import import_prompt as import_prompt
    from preface.experiments.cross_domain import compare_cross_domain as compare_cross_domain
    from preface.experiments.gather import report as report
    from preface.insight.neighbors import neighbors as neighbors
    from preface.insight.similarity import similarity as similarity
    from preface.labelling.ensemble import ensemble as ensemble
    from preface.labelling.evaluate import evaluate as evaluate
    from preface.labelling.predict import predict as predict
    from preface.methods import PrefixTuning as PrefixTuning
    from preface.methods import PromptTuning as PromptTuning
    from preface.pretraining.making import adapt as adapt
    from preface.pretraining.making import pretrain as pretrain
    from preface.pretraining.tokens import tokenize as tokenize
    from preface.records.push import push as push
    from preface.records.run import Run as Run
    from preface.serving.engine import Engine as Engine
    from preface.serving.store import Store as Store
    from preface.tasks import list_tasks as list_tasks
    from preface.tuning.bench import bench as bench
    from preface.tuning.listing import list_methods as list_methods
    from preface.tuning.train import train as train

_HOMES = {
    "Backbone": "backbones.base",
    "Engine": "serving.engine",
    "PrefixTuning": "methods",
    "PromptClassifier": "classifier",
    "PromptTuning": "methods",
    "Run": "records.run",
    "Store": "serving.store",
    "UserError": "errors",
    "adapt": "pretraining.making",
    "bench": "tuning.bench",
    "compare_cross_domain": "experiments.cross_domain",
    "default_backbone": "backbones.load",
    "doctor": "backbones.machine",
    "ensemble": "labelling.ensemble",
    "evaluate": "labelling.evaluate",
    "export_prompt": "exchange.exporting",
    "import_prompt": "exchange.importing",
    "list_methods": "tuning.listing",
    "list_tasks": "tasks",
    "load_backbone": "backbones.load",
    "neighbors": "insight.neighbors",
    "predict": "labelling.predict",
    "pretrain": "pretraining.making",
    "push": "records.push",
    "report": "experiments.gather",
    "similarity": "insight.similarity",
    "tokenize": "pretraining.tokens",
    "train": "tuning.train",
}
"""Where each public name lives: imported when first used, for torch takes seconds to import."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'preface' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"preface.{_HOMES[name]}"), name)
    return value

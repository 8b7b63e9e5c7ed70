"""Preface: soft-prompt tuning of frozen language models. Train the preface, freeze the book.

    import preface
    backbone = preface.load_backbone()
    run = preface.train(backbone, task="film", method=preface.PrefixTuning(length=20), learning_rates=[1e-2], seeds=3)
    preface.evaluate(run, on=["film", "reviews"])
"""

from preface.backbone import DEFAULT, Backbone, load_backbone
from preface.errors import UserError
from preface.evaluate import evaluate
from preface.experiments.cross_domain import cross_domain
from preface.methods import PrefixTuning, PromptTuning
from preface.predict import predict
from preface.run import Run
from preface.show import methods_on
from preface.tasks import list_tasks
from preface.train import train

__all__ = [
    "DEFAULT", "Backbone", "PrefixTuning", "PromptTuning", "Run", "UserError", "cross_domain", "evaluate",
    "list_tasks", "load_backbone", "methods_on", "predict", "train",
]  # fmt: skip

"""What the methods cost on a backbone: parameters trained, stored, and receiving a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from preface.backbones.base import Backbone
from preface.methods import METHODS, Method, PrefixTuning
from preface.methods.init import Initializer
from preface.options import validated
from preface.tuning.step import answers_of


def list_methods(
    backbone: Backbone, *, length: int | None = None, sites: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Each method with the parameters of one prompt on a backbone: trained, stored, and, measured by one backward
    pass, those that receive a gradient."""
    rows = []
    for name, method in METHODS.items():
        variants: list[dict[str, Any]] = [{}]
        if method is PrefixTuning:
            variants.append({"reparametrize": backbone.width})
        for variant in variants:
            fields = {
                "length": length,
                "sites": sites if method is PrefixTuning else None,
                "init": "vocabulary",
                **variant,
            }
            configured = validated(method, {key: value for key, value in fields.items() if value is not None})
            receiving = _gradient_receiving(backbone, configured)
            rows.append(
                {"method": name, "summary": method.summary, "length": configured.length, **variant}
                | asdict(configured.counts(backbone))
                | {"gradient_receiving": receiving}
            )
    return rows


def _gradient_receiving(backbone: Backbone, method: Method) -> int:
    """How many of one prompt's trained numbers have a gradient other than zero after one backward pass."""
    module = method.build(backbone, Initializer.parse(method.init), [0])
    inputs, mask = backbone.pad(backbone.tokenize(["a frozen book and its preface"], 32)[0])
    answers, labels = answers_of(backbone.answer_pieces(["positive"]), backbone.lead_in)
    prompts = module()
    backbone.losses(backbone.read(inputs, mask, prompts), answers, labels, prompts).mean().backward()
    return sum(int((p.grad != 0).sum()) for p in module.parameters() if p.grad is not None)

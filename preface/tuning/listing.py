"""What the methods cost on a backbone: parameters trained, stored, and receiving a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from preface.backbones.base import Backbone
from preface.backbones.batching import answers_of
from preface.labelling.free_text import targets_of
from preface.labelling.label_words import LabelWords
from preface.methods import METHODS, Method, PrefixTuning
from preface.methods.init import Initializer
from preface.options import validated

TEXTS = {"a frozen book and its preface": "yes", "what was it about?": "no", "not good": "no", "well": "yes"}
"""What is read and answered to see where a gradient arrives."""


def list_methods(
    backbone: Backbone, *, length: int | None = None, sites: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Each method with the parameters of one prompt on a backbone: trained, stored, and, measured by backward
    passes, those that receive a gradient."""
    given = {"length": length, "sites": sites}
    rows = []
    for method in METHODS.values():
        fields = {name: value for name, value in given.items() if name in method.model_fields and value is not None}
        variants: list[dict[str, int]] = [{}]
        if method is PrefixTuning:
            variants.append({"reparametrize": backbone.width})
        for variant in variants:
            configured = validated(method, {"init": "vocabulary", **fields, **variant})
            rows.append(
                {"method": method.name, "summary": method.summary, "length": configured.length, **variant}
                | asdict(configured.counts(backbone))
                | {"gradient_receiving": _gradient_receiving(backbone, configured)}
            )
    return rows


def _gradient_receiving(backbone: Backbone, method: Method) -> int:
    """How many of one prompt's trained numbers have a gradient other than zero under any of a few texts.

    A single one would not do: in bfloat16 the terms of a gradient cancel now and then.
    """
    words = LabelWords.of(backbone, tuple(dict.fromkeys(TEXTS.values())))
    module = method.build(backbone, Initializer.parse(method.init, words.words), [0])
    parameters = list(module.parameters())
    received = [torch.zeros_like(parameter, dtype=torch.bool) for parameter in parameters]
    for text, answer in TEXTS.items():
        inputs, mask = backbone.pad(backbone.tokenize([text], 32)[0])
        prompts = module()
        answers, labels = answers_of(targets_of(words, prompts, [answer]), words.lead_in)
        losses = backbone.losses(backbone.read(inputs, mask, prompts), answers, labels, prompts)
        gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
        for known, gradient in zip(received, gradients, strict=True):
            known |= False if gradient is None else gradient != 0
    return sum(int(known.sum()) for known in received)

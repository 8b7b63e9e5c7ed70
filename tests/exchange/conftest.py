"""A backbone of each kind, and the model that it is made of as Transformers loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone


@pytest.fixture(scope="session")
def causal(causal_folder: Path) -> Backbone:
    return load_backbone(causal_folder, dtype="float32", device="cpu")


@pytest.fixture(params=["t5", "causal"])
def backbone(request: pytest.FixtureRequest, tiny_float32: Backbone) -> Backbone:
    return tiny_float32 if request.param == "t5" else request.getfixturevalue("causal")


@pytest.fixture
def plain(backbone: Backbone) -> Any:
    """Fresh, for PEFT changes what it wraps."""
    return plain_of(backbone)


def plain_of(backbone: Backbone) -> Any:
    kind = AutoModelForSeq2SeqLM if "encoder" in backbone.sites else AutoModelForCausalLM
    return kind.from_pretrained(backbone.name).float().eval()

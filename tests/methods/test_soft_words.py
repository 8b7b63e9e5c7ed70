"""Soft words: where they begin; trained, saved, evaluated, voted on, looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import preface
from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.load import EMBEDDED
from preface.errors import UserError
from preface.methods import PromptTuning
from preface.methods.init import Initializer
from preface.methods.soft_words import SoftWords
from preface.prompts import Prompts
from preface.records.card import load_prompt, save_prompt
from preface.tuning.listing import list_methods
from tests.backbones.test_t5 import batch, forward
from tests.records.making import card_of

METHOD = SoftWords(length=3)
INIT = Initializer.parse("vocabulary")


@torch.no_grad()
def test_begins_as_prompt_tuning(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    rows = torch.tensor([0, 1, 1, 0])
    mine = METHOD.build(tiny, INIT, [0, 1])()
    theirs = PromptTuning(length=3).build(tiny, INIT, [0, 1])()
    assert mine.tensors["embeddings.added"].shape == (2, tiny.layers - 1, 3, tiny.width)
    found = [forward(tiny, ids, mask, labels, prompts, rows) for prompts in (mine, theirs)]
    assert torch.equal(*found)


@torch.no_grad()
def test_begins_where_a_saved_prompt_ends(tiny: Backbone, nano: Backbone, tmp_path: Path) -> None:
    module = METHOD.build(tiny, INIT, [0])
    module.added.add_(torch.randn_like(module.added))
    save_prompt(tmp_path / "soft", module(), card_of(tiny, METHOD))
    again = METHOD.build(tiny, Initializer.parse(f"prompt:{tmp_path / 'soft'}"), [5, 6])()
    for name, tensor in module().tensors.items():
        assert torch.equal(again.tensors[name], tensor.expand(2, *tensor.shape[1:]))
    save_prompt(tmp_path / "tuned", PromptTuning(length=3).build(tiny, INIT, [0])(), card_of(tiny, METHOD))
    again = METHOD.build(tiny, Initializer.parse(f"prompt:{tmp_path / 'tuned'}"), [0])()
    assert not again.tensors["embeddings.added"].any()
    deeper = torch.zeros(1, 4, 3, tiny.width)
    save_prompt(tmp_path / "deep", Prompts(module().tensors | {"embeddings.added": deeper}), card_of(tiny, METHOD))
    with pytest.raises(UserError, match="adds before 4 layers, not 1"):
        METHOD.build(tiny, Initializer.parse(f"prompt:{tmp_path / 'deep'}"), [0])


def test_after_the_text_only_where_there_is_such_a_place(tiny: Backbone, causal_folder: Path) -> None:
    with pytest.raises(UserError, match="place after"):
        SoftWords(length=3, place="after").build(tiny, INIT, [0])
    causal = preface.load_backbone(causal_folder, dtype="float32")
    module = SoftWords(length=3, place="after").build(causal, INIT, [0, 1])
    assert set(module().tensors) == {"after", "after.added"}
    assert module.leaves_reading
    assert not METHOD.build(causal, INIT, [0]).leaves_reading


@pytest.mark.parametrize("place", ["before", "after"])
def test_trained_on_a_decoder_only_model_and_read_back(place: str, causal_folder: Path, data_file: Path) -> None:
    run = preface.train(
        causal_folder, data_file, SoftWords(length=3, place=place), out=data_file.parent / "run", dtype="float32",
        learning_rates=[0.1], seeds=2, steps=6, batch_size=8, evaluate_every=3, optimizer="adafactor", dropout=0.1,
        gradient_checkpointing=True,
    )  # fmt: skip
    carrier = {"before": "embeddings", "after": "after"}[place]
    saved = load_prompt(run.folder)
    assert set(saved.prompts.tensors) == {carrier, f"{carrier}.added"}
    assert len(list(preface.predict(run, ["the good thing", "the bad thing"]))) == 2
    begin = Initializer.parse(f"prompt:{run.folder / 'prompt'}")
    again = SoftWords(length=3, place=place).build(run.backbone, begin, [0])()
    assert again.tensors.keys() == saved.prompts.tensors.keys()
    for name, tensor in saved.prompts.tensors.items():
        assert torch.equal(again.tensors[name], tensor)


def test_trained_saved_evaluated_voted_on_and_looked_at(nano: Backbone, tmp_path: Path) -> None:
    recipe = {"seeds": 1, "steps": 15, "batch_size": 16, "evaluate_every": 15}
    run = preface.train(nano, "film", SoftWords(length=4), out=tmp_path / "soft", learning_rates=[0.03], **recipe)
    assert run.result.trained_parameters == run.result.stored_parameters == 4 * nano.layers * nano.width
    assert run.best.step > 0
    assert load_prompt(run.folder).prompts.tensors["embeddings.added"].all()
    (cell,) = preface.evaluate(run, on=["film"], prompts="best")
    other = preface.train(nano, "film", PromptTuning(length=6), out=tmp_path / "tuned", learning_rates=[0.3], **recipe)
    cells = preface.ensemble([run, other], tmp_path / "ensemble", prompts="best", combine="weighted", on=["film"])
    assert cell.value in [found.value for found in cells if found.method == "a prompt alone"]
    (alike,) = preface.evaluate(tmp_path / "ensemble", on=["film"], backbone=nano)
    assert alike.value in [found.value for found in cells]
    (part,) = preface.neighbors(run).parts
    assert (part.name, len(part.positions)) == ("embeddings", 4)
    with pytest.raises(UserError, match="only a prefix has layers"):
        preface.neighbors(run, layers=[1])


def test_one_layer_has_nothing_to_add_before(tmp_path: Path) -> None:
    """Then soft words are prompt tuning."""
    config = LlamaConfig(
        vocab_size=16384, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    backbone = CausalBackbone("shallow", AutoModelForCausalLM.from_config(config), tokenizer)
    (row,) = (row for row in list_methods(backbone, length=3) if row["method"] == "soft-words")
    assert row["trained"] == row["gradient_receiving"] == 3 * 16

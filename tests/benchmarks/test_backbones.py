"""Full tuning in the comparison of backbones changes all of a model, and is evaluated with what it has changed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from preface.backbones.load import EMBEDDED
from preface.backbones.t5 import T5Backbone
from preface.tasks import Example, Split

WORDS = ("great", "terrible")


def tiny(vocabulary: int) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary, d_model=16, d_kv=4, num_heads=4, d_ff=32, num_layers=2, decoder_start_token_id=0,
            dense_act_fn="gelu_new", is_gated_act=True, tie_word_embeddings=False,
        )
    )  # fmt: skip


def test_full_tuning_changes_every_weight(load: Callable[[str], ModuleType]) -> None:
    benchmark = load("backbones")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    model = tiny(len(tokenizer))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    frozen = T5Backbone("frozen", tiny(len(tokenizer)), tokenizer)
    examples = [Example.of(f"row {index} is {WORDS[index % 2]}", WORDS[index % 2]) for index in range(32)]
    split = Split("rows", "train", examples, [], [])
    benchmark.tune_all(model, frozen, split, rate=0.01, seed=0, steps=3)
    same = [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]
    assert not same
    assert {"encoder.block.1.layer.0.SelfAttention.k.weight", "decoder.block.1.layer.1.EncDecAttention.v.weight"} < set(
        before
    )
    fresh = T5Backbone("tuned", model, tokenizer)
    assert all(torch.equal(weight, before[name]) for name, weight in frozen.model.named_parameters())
    ids, mask = fresh.pad([[5, 6, 1]])
    answers = torch.tensor([[0, 7]])
    assert not torch.allclose(
        fresh.logits(fresh.read(ids, mask), answers), frozen.logits(frozen.read(ids, mask), answers)
    )
    assert benchmark.accuracy(fresh, split) in {index / 32 for index in range(33)}

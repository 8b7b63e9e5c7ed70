"""Decoder-only models of every family, tiny and random, held against Transformers' own forward pass and cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

import preface
from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.contexts import Inputs
from preface.backbones.families import FAMILIES, refusal
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts, stack

SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
OWN: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 3.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24},
    "mistral": {"sliding_window": 6},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {"rotary_pct": 0.5},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "granite": {"embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5,
                "attention_multiplier": 0.3},
}  # fmt: skip
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [31, 32, 33, 34, 35]]
CUE = [40, 41]


def pair(kind: str, **sizes: Any) -> tuple[CausalBackbone, Any]:
    """A tiny random model as a backbone, and the same as Transformers has it."""
    config = AutoConfig.for_model(kind, **SMALL | OWN.get(kind, {}) | sizes)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").eval().float()
    for parameter in plain.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    model.load_state_dict(plain.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(Path(preface.__file__).parent / "backbones/nano")
    return CausalBackbone(f"tiny {kind}", model, tokenizer), plain


@pytest.fixture(scope="module", params=list(FAMILIES))
def models(request: pytest.FixtureRequest) -> tuple[CausalBackbone, Any]:
    return pair(request.param)


def random_prompts(backbone: Backbone, size: int, length: int, *carriers: str, seed: int = 0) -> Prompts:
    torch.manual_seed(seed)
    tensors = {}
    for carrier in carriers:
        if carrier in backbone.sites:
            site = backbone.sites[carrier]
            for part in ("keys", "values"):
                tensors[f"{carrier}.{part}"] = torch.randn(size, site.layers, site.heads, length, site.width)
        else:
            tensors[carrier] = torch.randn(size, length, backbone.width)
    return Prompts(tensors)


def logits(backbone: Backbone, texts: list[list[int]], prompts: Prompts | None = None, rows: Any = None) -> Tensor:
    """After each piece of the cue, `[B, S, vocabulary]`."""
    rows = None if rows is None else torch.tensor(rows)
    with torch.no_grad():
        context = backbone.read(*backbone.pad(texts), prompts, rows)
        return backbone.logits(context, torch.tensor([CUE] * len(texts)), prompts, rows)


@torch.no_grad()
def expected(plain: Any, text: list[int], cache: Any = None, before: int = 0) -> Tensor:
    """Transformers' own, after each piece of the cue, `[S, vocabulary]`."""
    ids = torch.tensor([[*text, *CUE]])
    positions = torch.arange(before, before + ids.shape[1])[None]
    output = plain(ids, past_key_values=cache, position_ids=positions)
    return output.logits[0, -len(CUE) :]


def test_without_a_prompt_the_logits_are_transformers_own(models: tuple[CausalBackbone, Any]) -> None:
    backbone, plain = models
    for row, text in zip(logits(backbone, TEXTS), TEXTS, strict=True):
        torch.testing.assert_close(row, expected(plain, text), atol=2e-4, rtol=1e-4)


def test_where_nothing_is_read_an_answer_begins_the_text(models: tuple[CausalBackbone, Any]) -> None:
    backbone, plain = models
    ids, mask = backbone.pad([[7], TEXTS[1]])
    mask[0] = 0
    with torch.no_grad():
        found = backbone.logits(backbone.read(ids, mask), torch.tensor([CUE] * 2))
    for row, text in zip(found, ([], TEXTS[1]), strict=True):
        torch.testing.assert_close(row, expected(plain, text), atol=2e-4, rtol=1e-4)


def test_a_prefix_before_the_text_equals_the_same_keys_in_a_cache(models: tuple[CausalBackbone, Any]) -> None:
    """Made by real tokens, which Transformers then has in its cache; also where the window ends among them."""
    backbone, plain = models
    length = 3
    words = torch.tensor([[50, 51, 52]])
    mask = torch.ones_like(words)
    everywhere = torch.tensor([[0, place] for place in range(length)])
    made = backbone.key_values({"input": everywhere}, backbone.embed(words), mask, backbone.embed(words))
    for row, text in zip(logits(backbone, TEXTS, Prompts.one(made)), TEXTS, strict=True):
        cache = DynamicCache()
        with torch.no_grad():
            plain(words, past_key_values=cache)
        torch.testing.assert_close(row, expected(plain, text, cache, length), atol=2e-4, rtol=1e-4)


def test_embeddings_equal_those_tokens(models: tuple[CausalBackbone, Any]) -> None:
    backbone, plain = models
    words = [50, 51, 52]
    embedded = backbone.embed(torch.tensor([words])).detach()
    for row, text in zip(logits(backbone, TEXTS, Prompts({"embeddings": embedded})), TEXTS, strict=True):
        torch.testing.assert_close(row, expected(plain, words + text), atol=2e-4, rtol=1e-4)
    for row, text in zip(logits(backbone, TEXTS, Prompts({"after": embedded})), TEXTS, strict=True):
        torch.testing.assert_close(row, expected(plain, text + words), atol=2e-4, rtol=1e-4)


def test_a_mixed_batch_equals_its_rows_one_by_one(models: tuple[CausalBackbone, Any]) -> None:
    backbone, _ = models
    several = [
        random_prompts(backbone, 1, 2, "input", seed=1),
        random_prompts(backbone, 1, 4, "answer", seed=2),
        random_prompts(backbone, 1, 3, "embeddings", seed=3),
        random_prompts(backbone, 1, 2, "after", seed=4),
        random_prompts(backbone, 1, 1, "input", "answer", "embeddings", "after", seed=5),
        Prompts.bare(),
    ]
    texts = [TEXTS[place % len(TEXTS)] for place in range(2 * len(several))]
    rows = [place % len(several) for place in range(len(texts))]
    together = logits(backbone, texts, stack(several), rows)
    for row, text, prompt in zip(together, texts, rows, strict=True):
        (alone,) = logits(backbone, [text], several[prompt])
        torch.testing.assert_close(row, alone, atol=2e-4, rtol=1e-4)


def test_label_scores_are_transformers_own_read_once_or_anew(models: tuple[CausalBackbone, Any]) -> None:
    """Also past a window; and every prompt about every text equals one at a time."""
    backbone, plain = models
    lead_in, pieces = [40], [[60, 61], [60, 62, 63], [64]]
    words = LabelWords(("a", "b", "c"), tuple(map(tuple, pieces)), tuple(lead_in))
    prompts = stack([random_prompts(backbone, 1, 3, "answer"), random_prompts(backbone, 1, 2, "after"), Prompts.bare()])
    for keep in (False, True):
        each = Labeller(backbone, prompts, words).label_each(Inputs(backbone, TEXTS, keep=keep))
        for prompt in range(3):
            alone = Labeller(backbone, prompts.select([prompt]), words).label(Inputs(backbone, TEXTS))
            torch.testing.assert_close(each[prompt], alone, atol=2e-4, rtol=1e-4)
        for scores, text in zip(each[2], TEXTS, strict=True):
            for score, word in zip(scores, pieces, strict=True):
                with torch.no_grad():
                    said = plain(torch.tensor([[*text, *lead_in, *word]])).logits[0].log_softmax(-1)
                places = range(len(text) + len(lead_in) - 1, len(text) + len(lead_in) + len(word) - 1)
                whole = sum(float(said[place, piece]) for place, piece in zip(places, word, strict=True))
                assert float(score) == pytest.approx(whole, abs=1e-3)


def test_losses_and_gradients_are_those_of_the_full_softmax(models: tuple[CausalBackbone, Any]) -> None:
    backbone, _ = models
    start = random_prompts(backbone, 1, 3, "answer").tensors
    tensors = {name: tensor.requires_grad_() for name, tensor in start.items()}
    inputs, labels = torch.tensor([CUE] * len(TEXTS)), torch.tensor([[-100, 60], [61, 62], [-100, 63]])
    context = backbone.read(*backbone.pad(TEXTS))
    ours = backbone.losses(context, inputs, labels, Prompts(tensors))
    own = torch.autograd.grad(ours.sum(), list(tensors.values()))
    whole = backbone.logits(context, inputs, Prompts(tensors)).float()
    theirs = torch.nn.functional.cross_entropy(whole.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(ours.sum(), theirs, atol=1e-4, rtol=1e-4)
    for mine, other in zip(own, torch.autograd.grad(theirs, list(tensors.values())), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_different_prompts_in_one_batch(models: tuple[CausalBackbone, Any], beams: int) -> None:
    backbone, plain = models
    several = [
        random_prompts(backbone, 1, 2, "input", seed=1),
        random_prompts(backbone, 1, 2, "answer", "after", seed=2),
        Prompts.bare(),
    ]
    rows = torch.tensor([0, 1, 2])
    how = {"max_new_tokens": 9, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    context = backbone.read(*backbone.pad(TEXTS), stack(several), rows)
    together = backbone.generate(context, stack(several), rows, lead_in=CUE, **how)
    for row, text, prompts in zip(together, TEXTS, several, strict=True):
        (alone,) = backbone.generate(backbone.read(*backbone.pad([text]), prompts), prompts, lead_in=CUE, **how)
        assert row.tolist() == alone.tolist()
    own = plain.generate(torch.tensor([[*TEXTS[2], *CUE]]), **how)[0, len(TEXTS[2]) + len(CUE) :]
    assert together[2].tolist() == own.tolist()


def test_the_weights_do_not_change_and_checkpointing_gives_the_same(models: tuple[CausalBackbone, Any]) -> None:
    backbone, _ = models
    before = backbone.fingerprint
    tensors = {n: t.requires_grad_() for n, t in random_prompts(backbone, 1, 3, "input", "answer").tensors.items()}
    ids, labels = torch.tensor([CUE] * len(TEXTS)), torch.tensor([[-100, 60]] * len(TEXTS))
    found = []
    for checkpointing in (False, True):
        with backbone.training(gradient_checkpointing=checkpointing):
            context = backbone.read(*backbone.pad(TEXTS), Prompts(tensors))
            losses = backbone.losses(context, ids, labels, Prompts(tensors))
            found.append(torch.autograd.grad(losses.sum(), list(tensors.values())))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)
    del backbone.__dict__["fingerprint"]
    assert backbone.fingerprint == before


@pytest.mark.parametrize("kind", ["falcon", "bloom", "mpt", "gptj"])
def test_what_is_not_taken_is_refused_by_name(kind: str) -> None:
    assert "attention interface" in str(refusal(AutoConfig.for_model(kind)))


def test_rotary_positions_that_turn_with_the_length_are_refused() -> None:
    config = AutoConfig.for_model(
        "llama", **SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    with pytest.raises(UserError, match="dynamic"):
        CausalBackbone("x", AutoModelForCausalLM.from_config(config), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_where_a_table_of_positions_ends(kind: str) -> None:
    backbone, _ = pair(kind)
    text = [[5] * (128 - len(CUE) - 3)]
    prompts = random_prompts(backbone, 1, 3, "input")
    logits(backbone, text, prompts)
    with pytest.raises(UserError, match=f"tiny {kind} has 128 positions, and text, prompt and answer need 129"):
        logits(backbone, [[*text[0], 5]], prompts)

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.methods.init import COMMON, NAMES, Initializer, key_values, label_embeddings, text_ids
from preface.records.card import save_prompt
from preface.tasks.task import SENTINEL
from tests.records.making import card_of

EXAMPLES = [(f"text number {i} is here", ("yes", "no")[i % 2]) for i in range(30)]


def test_random_is_uniform_in_plus_minus_one_half(nano: Backbone) -> None:
    drawn = Initializer.parse("random").embeddings(nano, 200, seed=1)
    assert drawn.abs().max() <= 0.5
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.var()) == pytest.approx(1 / 12, rel=0.05)  # of the uniform distribution


def test_common_pieces_are_ordinary_and_in_order_of_frequency(nano: Backbone) -> None:
    pieces = nano.common_pieces(COMMON)
    assert len(pieces) == COMMON == len(set(pieces))
    words = nano.tokenizer.convert_ids_to_tokens(pieces)
    assert not any("extra_id" in word or word in ("<pad>", "</s>", "<unk>") for word in words)
    assert pieces == sorted(pieces)
    assert "▁the" in words[:20]


def test_vocabulary_samples_without_replacement(nano: Backbone) -> None:
    drawn = Initializer.parse("vocabulary").embeddings(nano, COMMON, seed=3)
    assert len(drawn.unique(dim=0)) == len(nano.model.shared.weight[nano.common_pieces(COMMON)].unique(dim=0))
    with pytest.raises(UserError, match="5000 pieces"):
        Initializer.parse("vocabulary").embeddings(nano, COMMON + 1, seed=3)


def test_labels_average_their_pieces_and_the_vocabulary_fills_the_rest(nano: Backbone) -> None:
    words = ("positive", "not at all positive")
    drawn = label_embeddings(nano, words, 6, seed=0)
    table = nano.model.shared.weight
    assert torch.equal(drawn[0], table[text_ids(nano, "positive")[0]])
    assert len(text_ids(nano, words[1])) > 1
    torch.testing.assert_close(drawn[1], table[torch.tensor(text_ids(nano, words[1]))].mean(0))
    assert all((table == row).all(1).any() for row in drawn[2:])
    assert len(label_embeddings(nano, words, 1, seed=0)) == 1


def test_text_is_repeated_to_length(nano: Backbone) -> None:
    ids = text_ids(nano, "a good film")
    drawn = Initializer.parse("text:a good film").embeddings(nano, 5, seed=0)
    assert torch.equal(drawn, nano.model.shared.weight[torch.tensor((ids * 2)[:5])])


@torch.no_grad()
def test_prefix_of_a_text_is_what_the_model_computes_for_it(nano: Backbone) -> None:
    """A prefix from a text, in the first layer, where keys depend on nothing but the token itself."""
    ids = torch.tensor([text_ids(nano, "a good film", 4)])
    start = key_values(nano, ("encoder", "decoder", "cross"), Initializer.parse("text:a good film"), 4, seed=0)
    block = nano.model.encoder.block[0].layer[0]
    hidden = block.layer_norm(nano.model.shared(ids))
    torch.testing.assert_close(start["encoder.keys"][0], block.SelfAttention.k(hidden).view(4, 4, 64).transpose(0, 1))
    states = nano.model.encoder(input_ids=ids).last_hidden_state
    cross = nano.model.decoder.block[2].layer[1].EncDecAttention
    torch.testing.assert_close(start["cross.values"][2], cross.v(states).view(4, 4, 64).transpose(0, 1))


@torch.no_grad()
def test_activations_are_keys_of_training_examples(nano: Backbone) -> None:
    start = key_values(nano, ("encoder", "decoder", "cross"), Initializer.parse("activations", (), EXAMPLES), 6, seed=5)
    attention = nano.model.encoder.block[0].layer[0]
    ids, _ = nano.tokenize([text for text, _ in EXAMPLES], 32)
    every = torch.tensor(sorted({piece for item in ids for piece in item}))
    possible = attention.SelfAttention.k(attention.layer_norm(nano.model.shared(every))).view(-1, 4, 64)
    for token in start["encoder.keys"][0].transpose(0, 1):  # [H, d_kv]
        assert (possible - token).abs().amax((1, 2)).min() < 1e-4
    assert start["decoder.keys"].shape == (4, 4, 6, 64)
    of_cue = Initializer.parse("activations", (), EXAMPLES, SENTINEL)  # one more place a target to draw from
    assert not torch.equal(key_values(nano, ("decoder",), of_cue, 6, 5)["decoder.keys"], start["decoder.keys"])
    again = key_values(nano, ("decoder",), Initializer.parse("activations", (), EXAMPLES), 6, seed=6)
    assert not torch.equal(again["decoder.keys"], start["decoder.keys"])


def test_from_a_saved_prompt(nano: Backbone, tmp_path: Path) -> None:
    for method in (PromptTuning(length=3), PrefixTuning(length=3, sites=("cross",))):
        module = method.build(nano, Initializer.parse("vocabulary"), [1])
        folder = tmp_path / method.name
        save_prompt(folder, module(), card_of(nano, method))
        again = method.build(nano, Initializer.parse(f"prompt:{folder}"), [5, 6])
        for mine, theirs in zip(again.parameters(), module.parameters(), strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[0])
        with pytest.raises(UserError, match="length"):
            method.model_copy(update={"length": 4}).build(nano, Initializer.parse(f"prompt:{folder}"), [0])
    with pytest.raises(UserError, match="no prompt here"):
        Initializer.parse("prompt:/nowhere").saved()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_an_initialisation(name: str, tiny: Backbone) -> None:
    init = Initializer.parse(name, ("yes", "no"), EXAMPLES)
    if init.kind != "prompt":  # there is no such folder
        start = key_values(tiny, ("encoder", "cross"), init, 3, seed=0)
        assert all(tensor.isfinite().all() and tensor.shape[2] == 3 for tensor in start.values())
    with pytest.raises(UserError, match="init bogus: one of .*" + name):
        Initializer.parse("bogus")


@pytest.mark.parametrize("text", ["", "bogus", "text:", "random:3", "activations"])
def test_what_init_cannot_be(text: str) -> None:
    with pytest.raises(UserError, match="init"):
        Initializer.parse(text)


def test_prompt_tuning_has_no_activations(nano: Backbone) -> None:
    with pytest.raises(UserError, match="prefix tuning only"):
        PromptTuning(init="activations").build(nano, Initializer.parse("activations", (), EXAMPLES), [0])

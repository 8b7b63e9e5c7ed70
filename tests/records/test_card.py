from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.prompts import Prompts
from preface.records.atomic import read_folder, write_folder
from preface.records.card import load_prompt, save_prompt
from tests.records.making import card_of

METHOD = PromptTuning(length=2)


def embeddings(backbone: Backbone, value: float = 1.0) -> Prompts:
    return Prompts({"embeddings": torch.full((1, 2, backbone.embeddings.shape[1]), value)})


def test_an_altered_prompt_is_refused(tiny: Backbone, tmp_path: Path) -> None:
    card = card_of(tiny, METHOD)
    save_prompt(tmp_path / "p", embeddings(tiny), card)
    assert load_prompt(tmp_path / "p").card == card.model_copy(update={"tensors": {"embeddings": (2, 24)}})
    content = json.loads((tmp_path / "p" / "prompt.json").read_text())
    (tmp_path / "p" / "prompt.json").write_text(json.dumps(content | {"label_words": ["a", "b"]}))
    with pytest.raises(UserError, match="altered"):
        load_prompt(tmp_path / "p")


def test_saving_again_replaces(tiny: Backbone, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_prompt(tmp_path / "p", embeddings(tiny, value), card_of(tiny, METHOD))
    assert float(load_prompt(tmp_path / "p").prompts.embeddings.mean()) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


KEYS = torch.zeros(3, 3, 2, 5)  # of the decoder of a tiny backbone: [L, H, n, d_kv]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "no tensors"),
        ({"embedding": torch.ones(2, 24)}, "'embedding' is no tensor of a prompt"),
        ({"embeddings": torch.full((2, 24), torch.nan)}, "no finite numbers"),
        ({"embeddings": torch.ones(2, 24).long()}, "no finite numbers"),
        ({"embeddings": torch.ones(24)}, r"sizes \[24\]"),
        ({"embeddings": torch.ones(3, 24)}, "are not those of prompt.json"),
        ({"decoder.keys": KEYS}, "'decoder' has not as many keys as values"),
        ({"decoder.keys": KEYS, "decoder.values": KEYS[:, :, :1]}, "'decoder' has not as many keys as values"),
        ({"encoder.keys": KEYS, "encoder.values": KEYS}, "are not those of prompt.json"),
        ({"cross.keys": KEYS, "cross.values": KEYS}, "are not those of prompt.json"),
        ({"cross.keys": KEYS, "cross.values": KEYS, "cross.relative": torch.ones(2)}, r"sizes \[2\]"),
        ({"embeddings": torch.ones(2, 24), "labels": torch.ones(5, 24)}, "'labels' has 5 vectors, and there are"),
        ({"embeddings.added": torch.ones(1, 2, 24)}, "'embeddings.added' does not add to as many embeddings"),
        ({"embeddings": torch.ones(2, 24), "embeddings.added": torch.ones(1, 3, 24)}, "does not add to as many"),
        ({"embeddings": torch.ones(2, 24), "embeddings.added": torch.ones(2, 24)}, r"the sizes \[2, 24\], not 3"),
        ({"decoder.keys": KEYS, "decoder.values": KEYS, "decoder.added": torch.ones(1, 2, 24)}, "does not add to"),
    ],
)
def test_tensors_that_are_not_the_card_s(
    tiny: Backbone, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    """Though their hashes are right: somebody wrote them anew."""
    save_prompt(tmp_path / "p", embeddings(tiny), card_of(tiny, METHOD))
    _, content = read_folder(tmp_path / "p", "prompt")
    write_folder(tmp_path / "p", "prompt", {name: tensor.clone() for name, tensor in tensors.items()}, content)
    with pytest.raises(UserError, match=said) as caught:
        load_prompt(tmp_path / "p")
    assert str(tmp_path / "p") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": None}, "backbone"),
        ({"label_words": {"a": "b", "c": "d"}}, "label_words"),
        ({"label_words": ["a"]}, "label_words"),
        ({"member": {"index": 0}}, r"member\.learning_rate"),
        ({"max_input_tokens": "many"}, "max_input_tokens"),
        ({"shape": {"d_model": "wide"}}, r"shape\.d_model"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_cards_of_another_form(tiny: Backbone, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save_prompt(tmp_path / "p", embeddings(tiny), card_of(tiny, METHOD))
    tensors, content = read_folder(tmp_path / "p", "prompt")
    write_folder(tmp_path / "p", "prompt", tensors, content | change)
    with pytest.raises(UserError, match=rf"prompt\.json: damaged, or of another version \({said}"):
        load_prompt(tmp_path / "p")


def test_a_prefix_comes_back(tiny: Backbone, tmp_path: Path) -> None:
    method = PrefixTuning(length=2, sites=("decoder",), positions="none")
    prompts = method.build(tiny, Initializer.parse("random"), [0])()
    save_prompt(tmp_path / "p", prompts, card_of(tiny, method))
    again = load_prompt(tmp_path / "p")
    again.check_sizes(tiny)
    assert torch.equal(again.prompts.tensors["decoder.keys"], prompts.tensors["decoder.keys"])


@pytest.mark.parametrize(
    "tensors",
    [
        {"embeddings": torch.ones(2, 23)},
        {"encoder.keys": KEYS, "encoder.values": KEYS},  # has a layer less
        {"decoder.keys": KEYS[..., :4], "decoder.values": KEYS[..., :4]},
        {"input.keys": KEYS, "input.values": KEYS},
        {"embeddings": torch.ones(2, 24), "embeddings.added": torch.ones(2, 2, 24)},  # of two layers, one is added to
        {"embeddings": torch.ones(2, 24), "embeddings.added": torch.ones(1, 2, 23)},
        {"after": torch.ones(2, 24), "after.added": torch.ones(1, 2, 24)},
    ],
)
def test_tensors_that_do_not_fit_the_backbone(tiny: Backbone, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_prompt(tmp_path / "p", Prompts.one(tensors), card_of(tiny, METHOD))
    with pytest.raises(UserError, match=r"prompt\.safetensors: .* does not fit"):
        list(preface.predict(tmp_path / "p", ["a text"], backbone=tiny))

"""Which weights are tuned, and that the model begins as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preface.backbones.load import load_checkpoint
from preface.errors import UserError
from preface.tuning.tunable import Adapted, make_tunable

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, labels=IDS).logits


@pytest.fixture(params=["t5", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("checkpoint_folder" if request.param == "t5" else "causal_folder")


@pytest.mark.parametrize("tuning", ["full", "bitfit", "adapters", "lora", "ia3"])
def test_begins_as_the_model_was_and_every_tuned_weight_gets_a_gradient(folder: Path, tuning) -> None:
    if tuning in ("lora", "ia3"):
        pytest.importorskip("peft")
    model, _ = load_checkpoint(folder, torch.float32)
    before = logits(model)
    tuned, parameters = make_tunable(model, tuning, rank=2, width=4)
    torch.testing.assert_close(logits(tuned), before)
    loss = tuned(input_ids=IDS, labels=IDS).loss
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if "lora_A" in name or "down" in name.split("."):  # behind a factor that begins at 0
            continue
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name
        assert parameter.requires_grad


def test_how_many_numbers_are_tuned(checkpoint_folder: Path) -> None:
    def count(tuning, **sizes: int) -> int:
        model, _ = load_checkpoint(checkpoint_folder, torch.float32)
        return sum(parameter.numel() for parameter in make_tunable(model, tuning, **sizes)[1].values())

    model, _ = load_checkpoint(checkpoint_folder, torch.float32)
    assert count("full") == sum(parameter.numel() for parameter in model.parameters())
    norms = 2 * 2 + 1 + 3 * 3 + 1  # of two encoder and three decoder layers, and one at the end of each stack
    assert count("bitfit") == norms * 24
    # after two attentions and feed-forwards in the encoder, and after three of two attentions and one in the decoder
    assert count("adapters", width=4) == (2 * 2 + 3 * 3) * (24 * 4 + 4 + 4 * 24 + 24)


def test_an_adapter_adds_a_bottleneck() -> None:
    adapted = Adapted(torch.nn.Linear(3, 5), 2)
    torch.nn.init.normal_(adapted.up.weight)
    x = torch.randn(4, 3)
    base = adapted.base(x)
    torch.testing.assert_close(adapted(x), base + adapted.up(torch.relu(adapted.down(base))))


def test_peft_refuses_in_one_line(causal_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    model, _ = load_checkpoint(causal_folder, torch.float32)
    monkeypatch.setattr(type(model.config), "model_type", "unheard-of")
    with pytest.raises(UserError, match="IA3: PEFT does not take a llama model"):
        make_tunable(model, "ia3")

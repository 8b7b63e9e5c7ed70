"""What every method must pass, whatever it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from preface.backbones.base import Backbone, Site
from preface.methods import METHODS, Method, PrefixTuning, PromptTuning
from preface.methods.decomposed_prompts import DecomposedPrompts
from preface.methods.init import Initializer
from preface.methods.low_dimensional_prompts import LowDimensionalPrompts
from preface.methods.p_tuning import PTuning
from preface.methods.residual_prompts import ResidualPrompts
from preface.methods.soft_words import SoftWords
from preface.records.card import load_prompt, save_prompt
from preface.tuning.step import member_losses, shares_of
from tests.backbones.test_t5 import forward
from tests.records.making import card_of

EXAMPLES = [(f"text number {i} is here", ("yes", "no")[i % 2]) for i in range(9)]
VARIANTS = [
    *(method(length=4, **({"width": 50} if "width" in method.model_fields else {})) for method in METHODS.values()),
    PrefixTuning(length=4, sites=("encoder",)),
    PrefixTuning(length=4, sites=("decoder", "cross"), positions="none"),
    PrefixTuning(length=4, reparametrize=6),
    PTuning(length=4, encoder="mlp", width=50),
    PTuning(pattern="** one text *:", width=50),
]
pytestmark = pytest.mark.parametrize("method", VARIANTS, ids=repr)


def build(method: Method, backbone: Backbone, seeds: list[int]):
    return method.build(backbone, Initializer.parse(method.init, ("yes", "no"), EXAMPLES), seeds)


def answered(backbone: Backbone, module, rows: list[int]):
    ids, mask = backbone.pad(backbone.tokenize([f"one {'more ' * row}text" for row in range(len(rows))], 32)[0])
    labels, label_mask = backbone.pad(backbone.tokenize(["positive", "no"] * len(rows), 8)[0][: len(rows)])
    if module().labels is not None:  # numbers of two labels
        labels = labels % 2
    labels = labels.masked_fill(label_mask == 0, -100)
    return forward(backbone, ids, mask, labels, module(), torch.tensor(rows)), labels


def losses_by_member(logits: torch.Tensor, labels: torch.Tensor, rows: list[int], size: int) -> torch.Tensor:
    """From Transformers' own loss of every label piece."""
    pieces = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    owners = torch.tensor(rows)
    return member_losses(pieces, owners, shares_of(labels, owners, size), size)


@pytest.mark.precision
def test_every_trained_element_gets_a_gradient(method: Method, tiny: Backbone) -> None:
    module = build(method, tiny, [0, 1])
    with tiny.training():
        logits, labels = answered(tiny, module, [0, 1, 1])
        losses_by_member(logits, labels, [0, 1, 1], 2).sum().backward()
    for name, parameter in module.named_parameters():
        # in bfloat16 a sum of a few terms may cancel, here and there; what gets no gradient is a vector at least
        allowed = 0.01 if tiny.dtype == torch.bfloat16 else 0.0
        if isinstance(method, PTuning | ResidualPrompts):
            allowed = 0.5  # a unit of a network may be silent at each of four tokens
        assert (parameter.grad == 0).float().mean() <= allowed, name
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


@pytest.mark.precision
def test_members_do_not_touch_each_other(method: Method, tiny: Backbone) -> None:
    module = build(method, tiny, [0, 1, 2])
    logits, labels = answered(tiny, module, [0, 1, 1])
    losses_by_member(logits, labels, [0, 1, 1], 3)[1].backward()
    for parameter in module.parameters():
        assert not parameter.grad[0].any()
        assert parameter.grad[1].any()
        assert not parameter.grad[2].any()


def test_counts_are_what_is_there(method: Method, tiny: Backbone) -> None:
    module = build(method, tiny, [0, 1])
    counts = method.counts(tiny)
    assert counts.trained == sum(parameter[0].numel() for parameter in module.parameters())
    tensors = module().tensors_of(0)
    assert counts.stored == sum(t.numel() for name, t in tensors.items() if not name.endswith("relative"))


@pytest.mark.precision
def test_a_member_starts_the_same_alone_and_in_company(method: Method, tiny: Backbone) -> None:
    together, alone = build(method, tiny, [3, 4]), build(method, tiny, [4])
    pairs = list(zip(together.parameters(), alone.parameters(), strict=True))
    assert all(torch.equal(both[1], one[0]) for both, one in pairs)
    assert not all(torch.equal(both[0], one[0]) for both, one in pairs)


@pytest.mark.precision
@torch.no_grad()
def test_saved_and_loaded_gives_the_same_logits(method: Method, tiny: Backbone, tmp_path: Path) -> None:
    """The reparametrisation is dropped, and nothing is lost by it."""
    module = build(method, tiny, [0, 1])
    expected, _ = answered(tiny, module, [1, 1])
    card = card_of(tiny, method)
    save_prompt(tmp_path / "prompt", module(), card, index=1)
    saved = load_prompt(tmp_path / "prompt")
    assert saved.card.model_copy(update={"tensors": None}) == card
    actual, _ = answered(tiny, lambda: saved.prompts, [0, 0])
    torch.testing.assert_close(actual, expected)


@pytest.mark.precision
@torch.no_grad()
def test_greedy_and_beam_generation(method: Method, tiny: Backbone) -> None:
    prompts = build(method, tiny, [0, 1])()
    ids, mask = tiny.pad(tiny.tokenize(["one", "two and three"], 32)[0])
    for beams in (1, 2):
        rows = torch.tensor([1, 0])
        context = tiny.read(ids, mask, prompts, rows)
        written = tiny.generate(context, prompts, rows, lead_in=tiny.lead_in(""), max_new_tokens=4, num_beams=beams)
        assert written.shape[0] == 2


@torch.no_grad()
def test_reparametrised_prefix_starts_near_its_initialisation(method: Method, tiny: Backbone) -> None:
    if not isinstance(method, PrefixTuning) or method.reparametrize is None:
        pytest.skip("for the reparametrised prefix")
    made = build(method, tiny, [0])()
    direct = build(method.model_copy(update={"reparametrize": None}), tiny, [0])()
    mine, theirs = made.tensors["cross.keys"], direct.tensors["cross.keys"]
    assert (mine - theirs).abs().max() < 0.05 * theirs.abs().max()


def test_numbers_of_t5_large(method: Method) -> None:
    sites = {name: Site(24, 16, 64, of="text") for name in ("encoder", "decoder", "cross")}
    large: Any = SimpleNamespace(name="t5-large", sites=sites, default_sites=tuple(sites), width=1024)
    large.layers, large.hidden_width = 24, 1024
    assert PromptTuning(length=100).counts(large).trained == 102_400
    assert PrefixTuning(length=20).counts(large).trained == 2_949_120
    assert PrefixTuning(length=20, sites=("decoder",)).counts(large).stored == 983_040
    assert DecomposedPrompts(length=100).counts(large).trained == 11_240  # Xiao et al.: 11.2K
    assert ResidualPrompts(length=100).counts(large).trained == 925_072  # Xiao et al.: 925K
    assert LowDimensionalPrompts(length=100).counts(large).trained == 2_248
    assert SoftWords(length=20).counts(large).stored == 20 * 24 * 1024

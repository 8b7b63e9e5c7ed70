"""Layers of frozen weights against those of torch and Transformers that they stand for."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

from preface.backbones import frozen
from preface.backbones.frozen import FrozenLinear, FrozenNorm, cross_entropy, log_total, make_frozen, weights_of
from preface.backbones.load import load_backbone
from preface.backbones.packed import packing_pays

VOCABULARY, WIDTH = 37, 12
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def linear(inputs: int, outputs: int, packs: bool = True, bias: bool = False) -> FrozenLinear:
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    layer.__class__ = FrozenLinear
    layer.packs = packs
    return layer


def assert_same_through(
    layer, original, x: Tensor, atol: float = 1e-5, rtol: float = 1e-4, steepness: float = 1.0
) -> None:
    """Outputs, and the gradients of the input, which are about `steepness` times as large."""
    inputs = [x.detach().clone().requires_grad_(True) for _ in range(2)]
    actual, expected = layer(inputs[0]), original(inputs[1])
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)
    weights = torch.randn(expected.shape, dtype=expected.dtype)
    actual.backward(weights)
    expected.backward(weights)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=atol * steepness, rtol=rtol)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("shape", [(1,), (40,), (2, 300), (0,), (2, 3, 4), ()], ids=lambda shape: f"{shape}")
def test_linear_is_torchs(shape: tuple[int, ...], packs: bool) -> None:
    torch.manual_seed(0)
    layer = linear(6, 9, packs)
    assert_same_through(layer, lambda x: functional.linear(x, layer.weight), torch.randn(*shape, 6))


def test_linear_of_an_input_that_lies_turned_in_memory() -> None:
    torch.manual_seed(0)
    layer = linear(6, 9)
    turned = torch.randn(6, 5, 4).permute(2, 1, 0)
    assert_same_through(layer, lambda x: functional.linear(x, layer.weight), turned)


def test_linear_with_a_bias_keeps_it() -> None:
    torch.manual_seed(0)
    layer = linear(6, 9, bias=True)
    assert_same_through(layer, lambda x: functional.linear(x, layer.weight, layer.bias), torch.randn(4, 6))


def test_linear_in_bfloat16() -> None:
    torch.manual_seed(0)
    layer = linear(6, 9).bfloat16()
    assert_same_through(
        layer, lambda x: functional.linear(x, layer.weight), torch.randn(4, 6).bfloat16(), atol=0, rtol=0
    )


@DTYPES
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 30), st.sampled_from([1e-4, 1.0, 100.0]))
@example(seed=203, rows=1, width=1, size=1.0)
def test_norm_is_t5s(dtype: torch.dtype, seed: int, rows: int, width: int, size: float) -> None:
    torch.manual_seed(seed)
    original = T5LayerNorm(width).requires_grad_(False).to(dtype)
    original.weight.normal_()
    mine = T5LayerNorm(width).requires_grad_(False).to(dtype)
    mine.weight = original.weight
    mine.__class__ = FrozenNorm
    # in bfloat16 each rounds other things on its way
    near = {torch.float32: 1e-4, torch.bfloat16: 4e-2}[dtype]
    x = (torch.randn(2, rows, width) * size).to(dtype)
    # the smallest row's: of one number alone, it may be much less than `size`
    steepness = max(1.0, float((x.float().square().mean(-1) + 1e-6).rsqrt().max()))
    if dtype == torch.bfloat16:  # which rounds numbers as large as this, and then takes their difference
        steepness *= max(1.0, 3 * float(original.weight.abs().max()))
    assert_same_through(mine, original, x, near, near, steepness)


@pytest.fixture
def few_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(frozen, "PIECES", 4)
    return 4


def drawn(positions: int, dtype: torch.dtype) -> tuple[Tensor, FrozenLinear, Tensor]:
    torch.manual_seed(positions)
    hidden = torch.randn(positions, WIDTH).to(dtype).requires_grad_(True)
    return hidden, linear(WIDTH, VOCABULARY).to(dtype), torch.randint(VOCABULARY, (positions,))


@DTYPES
@pytest.mark.parametrize("positions", [1, 4, 5, 11])
def test_cross_entropy_is_that_of_the_full_logits(few_pieces: int, dtype: torch.dtype, positions: int) -> None:
    hidden, head, labels = drawn(positions, dtype)
    weights = torch.rand(positions)
    losses = cross_entropy(hidden, head, labels)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), hidden)
    # exact, from the rounded numbers
    exact = hidden.detach().double().requires_grad_(True)
    expected = functional.cross_entropy(exact @ head.weight.double().T, labels, reduction="none")
    (expected_gradient,) = torch.autograd.grad((expected * weights.double()).sum(), exact)
    assert (losses.dtype, gradient.dtype) == (torch.float32, dtype)
    near = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(losses.double(), expected, atol=near, rtol=near)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=near, rtol=near)


def test_cross_entropy_where_logits_are_large() -> None:
    hidden, head, labels = drawn(7, torch.float32)
    large = (hidden.detach() * 1000).requires_grad_(True)
    losses = cross_entropy(large, head, labels)
    expected = functional.cross_entropy(large @ head.weight.T, labels, reduction="none")
    torch.testing.assert_close(losses, expected, atol=1e-2, rtol=1e-4)
    assert torch.autograd.grad(losses.sum(), large)[0].isfinite().all()


def test_cross_entropy_without_a_gradient_is_the_same() -> None:
    hidden, head, labels = drawn(7, torch.float32)
    torch.testing.assert_close(cross_entropy(hidden.detach(), head, labels), cross_entropy(hidden, head, labels))


@DTYPES
@pytest.mark.parametrize("positions", [1, 4, 11])
def test_log_total_is_the_logsumexp_of_all_logits(few_pieces: int, dtype: torch.dtype, positions: int) -> None:
    hidden, head, _ = drawn(positions, dtype)
    near = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    total = log_total(hidden, head)
    assert total.dtype == torch.float32
    expected = (hidden.double() @ head.weight.double().T).logsumexp(-1)
    torch.testing.assert_close(total.double(), expected, atol=near, rtol=near)


SHAPE = {
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 5,
    "num_heads": 3,
    "d_ff": 16,
    "num_layers": 2,
    "decoder_start_token_id": 0,
}
MODELS = {
    "t5-v1.0": (T5ForConditionalGeneration, T5Config(**SHAPE, feed_forward_proj="relu")),
    "t5-v1.1": (T5ForConditionalGeneration, T5Config(**SHAPE, feed_forward_proj="gated-gelu")),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**SHAPE, feed_forward_proj="gated-gelu")),
}


@pytest.mark.parametrize("name", MODELS)
def test_make_frozen_changes_neither_weights_nor_logits(name: str) -> None:
    torch.manual_seed(0)
    kind, config = MODELS[name]
    model = kind(config).eval().requires_grad_(False)
    ids, labels = torch.randint(2, 50, (3, 9)), torch.randint(2, 50, (3, 4))
    weights = {key: weight.clone() for key, weight in model.state_dict().items()}
    logits = model(input_ids=ids, labels=labels).logits
    make_frozen(model)
    kinds = {type(module) for module in model.modules()}
    assert {FrozenLinear, FrozenNorm} <= kinds
    assert nn.Linear not in kinds
    assert not any(kind.__name__.endswith("T5LayerNorm") for kind in kinds)
    torch.testing.assert_close(model(input_ids=ids, labels=labels).logits, logits)
    after = model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[key], weight) for key, weight in weights.items())


@pytest.mark.parametrize("part", ["decoder.block.0.layer.1.EncDecAttention.k", "encoder.block.0.layer.0.layer_norm"])
def test_a_weight_that_wants_a_gradient_is_refused(part: str, checkpoint_folder: Path) -> None:
    """Frozen layers give none, so to train them would train a part of the model without a word."""
    backbone = load_backbone(checkpoint_folder, dtype="float32", device="cpu")
    ids, mask = torch.tensor([[5, 6, 1]]), torch.ones(1, 3, dtype=torch.long)
    backbone.model.get_submodule(part).weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="load_checkpoint"):
        backbone.logits(backbone.read(ids, mask), torch.tensor([[0]]))


needs_packing = pytest.mark.skipif(
    not packing_pays(torch.device("cpu"), torch.float32), reason="torch has no oneDNN here"
)


def held_once(inputs: int = 6, outputs: int = 9) -> tuple[FrozenLinear, Tensor]:
    """A layer that has let its weights go, and what they were."""
    layer = linear(inputs, outputs)
    layer.keeps_plain = False
    plain = layer.weight.detach().clone()
    layer(torch.randn(3, inputs))
    return layer, plain


@needs_packing
def test_packed_weights_are_held_once_and_can_be_had_again() -> None:
    layer, plain = held_once()
    assert layer.weight.numel() == 0
    x = torch.randn(5, 6)
    for _ in range(2):
        assert_same_through(layer, lambda x: functional.linear(x, plain), x)
        assert torch.equal(layer.plain, plain)
        layer = deepcopy(layer)
    layer.unpack()
    assert torch.equal(layer.weight, plain)
    assert_same_through(layer, lambda x: functional.linear(x, plain), x)


@needs_packing
def test_packed_weights_go_to_another_precision_and_into_a_checkpoint() -> None:
    layer, plain = held_once()
    torch.testing.assert_close(layer.state_dict(), {"weight": plain}, atol=0, rtol=0)
    torch.testing.assert_close(layer.double().weight, plain.double(), atol=0, rtol=0)
    assert layer(torch.ones(2, 6).double()).dtype == torch.float64


@needs_packing
def test_the_weights_of_a_model_are_those_it_had() -> None:
    kind, config = MODELS["t5-v1.0"]
    model = kind(config).eval().requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    make_frozen(model, model.lm_head)
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, decoder_input_ids=ids)
    assert any(weight.numel() == 0 for weight in model.parameters())
    for kept in (model, model.to(torch.float64).to(torch.float32), deepcopy(model)):  # what is tied stays so
        assert kept.lm_head.weight is kept.shared.weight
    model(input_ids=ids, decoder_input_ids=ids)
    found = list(weights_of(model))
    assert [name for name, _ in found] == sorted(before)
    torch.testing.assert_close(dict(found), before, atol=0, rtol=0)

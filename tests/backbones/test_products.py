"""Closed forms against autograd through torch's own attention over keys that lie side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from preface.backbones.products import InTurn, Keys, Projected, SideBySide, attention
from preface.prompts import of_rows


@dataclass(frozen=True)
class Case:
    """Sizes of an attention: P · `rows_each` rows, each under `prefix` keys (0: none) and `tokens` of its own."""

    seed: int
    prompts: int = 2
    rows_each: int = 2
    heads: int = 3
    queries: int = 4
    tokens: int = 5
    prefix: int = 3
    width: int = 4
    bias: Literal["none", "keys", "heads", "rows"] = "heads"
    masked: bool = True

    @property
    def size(self) -> int:
        return self.prompts * self.rows_each

    def by_head(self, many: int) -> Tensor:
        """A leaf `[B, H, many, e]`, in memory as a projection leaves it."""
        return torch.randn(self.size, many, self.heads, self.width).transpose(1, 2).requires_grad_(True)

    def prefixes(self) -> tuple[Tensor, ...]:
        """Keys and values `[P, H, n, e]`, or nothing."""
        shape = (self.prompts, self.heads, self.prefix, self.width)
        return tuple(torch.randn(shape, requires_grad=True) for _ in range(2)) if self.prefix else ()

    def added(self) -> Tensor | None:
        """What is added to the scores; `masked`: some keys are hidden, of the prefix too, but never all."""
        keys = self.prefix + self.tokens
        bias = {
            "none": None,
            "keys": torch.randn(1, 1, 1, keys),
            "heads": torch.randn(1, self.heads, self.queries, keys),
            "rows": torch.randn(self.size, self.heads, self.queries, keys),
        }[self.bias]
        if not self.masked:
            return bias
        seen = torch.rand(self.size, 1, 1, keys) < 0.6
        seen[torch.arange(self.size), ..., torch.randint(keys, (self.size,))] = True
        return torch.where(seen, 0.0 if bias is None else bias, torch.finfo(torch.float32).min)


cases = st.builds(
    Case,
    seed=st.integers(0, 1000),
    prompts=st.integers(1, 3),
    rows_each=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 5),
    tokens=st.integers(1, 6),
    prefix=st.integers(0, 4),
    width=st.integers(1, 5),
    bias=st.sampled_from(["none", "keys", "heads", "rows"]),
    masked=st.booleans(),
)
many = settings(deadline=None, max_examples=25)


def reference(query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
    if prefix:
        keys, values = (of_rows(part, None, len(query)) for part in prefix)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)


def projected(states: Tensor, weight: Tensor, heads: int) -> Tensor:
    return (states @ weight.T).unflatten(-1, (heads, -1)).transpose(1, 2)


def kinds(prefix: tuple[Tensor, ...], own: Keys) -> list[Keys]:
    return [SideBySide(*prefix), own] if prefix else [own]


def self_attention(query: Tensor, key: Tensor, value: Tensor, *prefix: Tensor, bias: Tensor | None = None) -> Tensor:
    return attention(query, kinds(prefix, SideBySide(key, value)), bias)


def cross_attention(query: Tensor, states: Tensor, *tensors: Tensor, bias: Tensor | None = None) -> Tensor:
    key_weight, value_weight, *prefix = tensors
    return attention(query, kinds(tuple(prefix), Projected(states, key_weight, value_weight)), bias)


def assert_same(actual: Tensor, expected: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """Outputs, and the gradients of all leaves."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    weights = torch.randn(expected.shape)
    mine, theirs = (torch.autograd.grad((output * weights).sum(), leaves) for output in (actual, expected))
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


@many
@given(cases)
def test_self_attention_is_attention_over_prefix_and_tokens(case: Case) -> None:
    torch.manual_seed(case.seed)
    query, prefix, bias = case.by_head(case.queries), case.prefixes(), case.added()
    key, value = case.by_head(case.tokens), case.by_head(case.tokens)
    assert_same(
        self_attention(query, key, value, *prefix, bias=bias),
        reference(query, key, value, prefix, bias),
        (query, key, value, *prefix),
    )


@many
@given(cases)
def test_cross_attention_is_attention_over_prefix_and_projected_states(case: Case) -> None:
    torch.manual_seed(case.seed)
    query, prefix, bias = case.by_head(case.queries), case.prefixes(), case.added()
    states = torch.randn(case.size, case.tokens, 7, requires_grad=True)
    key_weight, value_weight = torch.randn(2, case.heads * case.width, 7).unbind()
    key, value = (projected(states, weight, case.heads) for weight in (key_weight, value_weight))
    assert_same(
        cross_attention(query, states, key_weight, value_weight, *prefix, bias=bias),
        reference(query, key, value, prefix, bias),
        (query, states, *prefix),
    )


def test_each_prompt_is_worn_by_its_own_rows_side_by_side() -> None:
    """Rows of another prompt give nothing to the gradient of this one."""
    torch.manual_seed(0)
    case = Case(seed=0, prompts=3, rows_each=2)
    query, prefix = case.by_head(4), case.prefixes()
    output = self_attention(query, case.by_head(5), case.by_head(5), *prefix)
    for gradient in torch.autograd.grad(output[2:4].square().sum(), prefix):
        assert gradient[1].any()
        assert not gradient[[0, 2]].any()


def test_a_masked_key_gets_no_weight_and_no_gradient() -> None:
    torch.manual_seed(0)
    case = Case(seed=0, masked=False)
    query, key, value, prefix = case.by_head(4), case.by_head(5), case.by_head(5), case.prefixes()
    bias = torch.zeros(1, 1, 1, 8)
    bias[..., [1, 4]] = torch.finfo(torch.float32).min  # the second of the prefix, the second of the tokens
    output = self_attention(query, key, value, *prefix, bias=bias)
    key_gradient, *prefix_gradients = torch.autograd.grad(output.square().sum(), (key, *prefix), retain_graph=True)
    assert not key_gradient[:, :, 1].any()
    assert not any(gradient[:, :, 1].any() for gradient in prefix_gradients)
    left, kept = [0, 2], [0, 2, 3, 4]
    without = self_attention(query, key[:, :, kept], value[:, :, kept], *(part[:, :, left] for part in prefix))
    torch.testing.assert_close(output, without)


@pytest.mark.parametrize("wanted", range(5))
def test_a_gradient_is_the_same_where_it_alone_is_wanted(wanted: int) -> None:
    """Training asks for the prefix alone at the first layer, and for all of them after it."""
    torch.manual_seed(0)
    case = Case(seed=0)
    leaves = (case.by_head(4), case.by_head(5), case.by_head(5), *case.prefixes())
    bias = case.added()
    whole = torch.autograd.grad(self_attention(*leaves, bias=bias).square().sum(), leaves)[wanted]
    alone = [leaf.detach().requires_grad_(place == wanted) for place, leaf in enumerate(leaves)]
    (gradient,) = torch.autograd.grad(self_attention(*alone, bias=bias).square().sum(), [alone[wanted]])
    torch.testing.assert_close(gradient, whole)


@pytest.mark.parametrize("wanted", [0, 1, 4, 5])
def test_a_gradient_of_cross_attention_is_the_same_where_it_alone_is_wanted(wanted: int) -> None:
    torch.manual_seed(0)
    case = Case(seed=0)
    states = torch.randn(case.size, 5, 7, requires_grad=True)
    weights = torch.randn(2, case.heads * case.width, 7).unbind()
    inputs = (case.by_head(4), states, *weights, *case.prefixes())
    bias = case.added()
    (whole,) = torch.autograd.grad(cross_attention(*inputs, bias=bias).square().sum(), [inputs[wanted]])
    alone = [leaf.detach().requires_grad_(place == wanted) for place, leaf in enumerate(inputs)]
    (gradient,) = torch.autograd.grad(cross_attention(*alone, bias=bias).square().sum(), [alone[wanted]])
    torch.testing.assert_close(gradient, whole)


@many
@given(cases)
def test_texts_are_seen_in_turn(case: Case) -> None:
    """`prompts` answer about each of `rows_each` texts: row b sees text b % N, under prompt b // N."""
    torch.manual_seed(case.seed)
    query, prefix = case.by_head(case.queries), case.prefixes()
    shape = (case.rows_each, case.heads, case.tokens, case.width)
    key, value = (torch.randn(shape, requires_grad=True) for _ in range(2))
    bias = case.added()
    repeated = [item.repeat(case.prompts, 1, 1, 1) for item in (key, value)]
    assert_same(
        attention(query, kinds(prefix, InTurn(key, value)), bias),
        reference(query, *repeated, prefix, bias),
        (query, key, value, *prefix),
    )


def capped_attention(query: Tensor, key: Tensor, value: Tensor, softcap: float) -> Tensor:
    return (torch.tanh(query @ key.transpose(-1, -2) / softcap) * softcap).softmax(-1) @ value


def test_scores_stay_within_a_softcap() -> None:
    torch.manual_seed(0)
    case = Case(seed=0)
    query, key, value = case.by_head(4), case.by_head(5), case.by_head(5)
    assert_same(
        attention(query, [SideBySide(key, value)], softcap=0.7),
        capped_attention(query, key, value, 0.7),
        (query, key, value),
    )


def test_dropout_leaves_weights_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2_000, 1), torch.zeros(1, 1, 4, 1)
    value = torch.ones(1, 1, 4, 1, requires_grad=True)
    output = attention(query, [SideBySide(key, value)], dropout=0.5)
    assert set(output.flatten().tolist()) == {0.0, 0.5, 1.0, 1.5, 2.0}  # each weight is 1/4, or 1/2, or none
    assert output.mean().item() == pytest.approx(1.0, abs=0.05)
    (gradient,) = torch.autograd.grad(output.sum(), value)
    assert gradient.sum().item() == pytest.approx(output.sum().item())  # of values of 1: the same weights again

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from preface.labelling.voting import combined, fitted_weights
from preface.records.card import Ensemble, Member

MEMBER = Member(index=0, learning_rate=0.1, seed=0, score=0.5, loss=1.0, step=1)


def ensemble(combine: str, weights: list[float]) -> Ensemble:
    return Ensemble(
        combine=combine, weights=tuple(weights), members=(MEMBER,) * len(weights), runs=("a",) * len(weights)
    )  # type: ignore[arg-type]


@st.composite
def scores(draw: st.DrawFn) -> torch.Tensor:
    """Log-probabilities of up to 5 prompts, 6 rows, 4 labels."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(2, 4)))
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**16)))) * 3


@given(scores())
def test_a_vote_is_the_commonest_label_and_ties_go_to_the_likelier(some: torch.Tensor) -> None:
    said = combined(some, ensemble("vote", [1 / len(some)] * len(some)))
    means = some.softmax(-1).mean(0)
    for row in range(some.shape[1]):
        votes = Counter(some[:, row].argmax(-1).tolist())
        most = max(votes.values())
        tied = [label for label, count in votes.items() if count == most]
        assert int(said[row].argmax()) == max(tied, key=lambda label: float(means[row, label]))
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(some.shape[1]))


@given(scores(), st.data())
def test_weighted_and_mean_probabilities(some: torch.Tensor, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.1, 1), min_size=len(some), max_size=len(some))))
    weights = weights / weights.sum()
    expected = np.einsum("e,enc->nc", weights, some.softmax(-1).double().numpy())
    actual = combined(some, ensemble("weighted", weights.tolist())).exp()
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)
    mean = combined(some, ensemble("mean", [1 / len(some)] * len(some))).exp()
    torch.testing.assert_close(mean, some.softmax(-1).mean(0))


@settings(deadline=None, max_examples=20)
@given(scores(), st.integers(0, 2**16))
def test_no_other_weights_make_the_right_labels_likelier(some: torch.Tensor, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gold = torch.tensor(generator.integers(0, some.shape[2], some.shape[1]))
    right = some.softmax(-1).double()[:, torch.arange(some.shape[1]), gold].numpy()  # [E, N]

    def loss(weights: np.ndarray) -> float:
        return float(-np.log(weights @ right + 1e-300).sum())

    fitted = np.array(fitted_weights(some, gold))
    assert fitted.sum() == pytest.approx(1)
    start = np.full(len(some), 1 / len(some))
    best = minimize(loss, start, bounds=[(0, 1)] * len(some), constraints={"type": "eq", "fun": lambda w: w.sum() - 1})
    assert loss(fitted) <= best.fun + 0.02 * max(1.0, abs(best.fun))
    assert loss(fitted) <= loss(start) + 1e-9


def test_one_prompt_says_what_it_says() -> None:
    some = torch.randn(1, 3, 2)
    assert torch.equal(combined(some, None), some[0])

"""Span corruption against T5's own rules, written anew as plain loops; prefix LM against the text itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preface.errors import UserError
from preface.pretraining.objectives import Ids, noise_mask, prefix_lm, span_corruption, span_lengths

SENTINELS = np.arange(999, 899, -1)
EOS = 1


def corrupted(tokens: list[int], mask: list[bool]) -> tuple[list[int], list[int]]:
    """Raffel et al. (2020), figure 2: each hidden span becomes a sentinel, and the target says what it hid."""
    inputs, targets, span = [], [], -1
    for place, (token, hidden) in enumerate(zip(tokens, mask, strict=True)):
        if not hidden:
            inputs.append(token)
            continue
        if place == 0 or not mask[place - 1]:
            span += 1
            inputs.append(int(SENTINELS[span]))
            targets.append(int(SENTINELS[span]))
        targets.append(token)
    return [*inputs, EOS], [*targets, EOS]


def test_lengths_are_those_of_t5() -> None:
    # random_spans_helper of Raffel et al.'s code: 512 tokens of input come from 568, with 114 of targets
    lengths = span_lengths(512)
    assert (lengths.raw, lengths.inputs, lengths.targets) == (568, 512, 114)


@given(st.integers(8, 300))
def test_lengths_fill_the_input_as_far_as_can_be(inputs: int) -> None:
    lengths = span_lengths(inputs)
    assert lengths.inputs <= inputs
    following = span_lengths(inputs + 1)
    assert following.raw >= lengths.raw
    assert lengths.noise >= lengths.spans >= 1


def test_too_short_an_input_is_refused() -> None:
    with pytest.raises(UserError, match="input-length 2"):
        span_lengths(2)


@settings(deadline=None)
@given(st.integers(8, 200), st.integers(1, 5), st.integers(0, 2**32))
def test_masks_hide_what_they_should(inputs: int, rows: int, seed: int) -> None:
    lengths = span_lengths(inputs)
    mask = noise_mask(np.random.default_rng(seed), rows, lengths)
    assert mask.shape == (rows, lengths.raw)
    assert (mask.sum(1) == lengths.noise).all()
    starts = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    assert (starts.sum(1) == lengths.spans).all()
    assert not mask[:, 0].any()


@settings(deadline=None)
@given(st.integers(8, 200), st.integers(1, 5), st.integers(0, 2**32))
def test_corruption_equals_plain_loops_and_loses_nothing(inputs: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = span_lengths(inputs)
    tokens: Ids = generator.integers(2, 800, (rows, lengths.raw))
    mask = noise_mask(generator, rows, lengths)
    read, said = span_corruption(tokens, mask, SENTINELS, EOS)
    assert read.shape == (rows, lengths.inputs)
    assert said.shape == (rows, lengths.targets)
    for row in range(rows):
        assert (read[row].tolist(), said[row].tolist()) == corrupted(tokens[row].tolist(), mask[row].tolist())


def test_every_place_is_hidden_about_as_often() -> None:
    lengths = span_lengths(128)
    mask = noise_mask(np.random.default_rng(0), 4000, lengths)
    # the ends differ, since a row begins with text and ends with a hidden span, as in T5
    assert mask[:, 20:-20].mean(0) == pytest.approx(0.15, abs=0.03)


@given(st.integers(8, 200), st.integers(0, 2**32))
def test_a_prefix_and_how_it_goes_on_are_the_text(length: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens: Ids = generator.integers(2, 800, (3, length))
    inputs, targets = prefix_lm(generator, tokens, EOS)
    assert (inputs[:, -1] == EOS).all()
    assert inputs.shape[1] > 1
    assert targets.shape[1] > 0
    assert np.array_equal(np.concatenate([inputs[:, :-1], targets], axis=1), tokens)


def test_prefixes_end_everywhere() -> None:
    tokens: Ids = np.ones((1, 127), dtype=np.int64)
    ends = {prefix_lm(np.random.default_rng(seed), tokens, EOS)[0].shape[1] for seed in range(500)}
    assert ends == set(range(8, 128, 8))

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.answers import predictions_on
from preface.labelling.calibration import CONTENT_FREE, calibrated
from preface.labelling.options import EvaluateOptions
from preface.options import validated
from preface.prompts import Prompts
from preface.tasks import Example

WORDS = ("positive", "negative", "no")
EXAMPLES = [Example.of(text, "no") for text in ("a fine film", "dull", "one more of these", "it is what it is")]


def probabilities(backbone: Backbone, examples: list[Example], calibration: str) -> torch.Tensor:
    (given,), _ = predictions_on(backbone, examples, WORDS, [Prompts.bare()], calibration=calibration)  # type: ignore[arg-type]
    return torch.tensor([[prediction.probabilities[word] for word in WORDS] for prediction in given])


def test_contextual_calibration_divides_by_what_texts_without_content_get(tiny: Backbone) -> None:
    """W = diag(p)⁻¹ of Zhao et al. 2021, section 4."""
    plain = probabilities(tiny, EXAMPLES, "none")
    prior = probabilities(tiny, [Example.of(text) for text in CONTENT_FREE], "none").mean(0)
    expected = plain / prior
    actual = probabilities(tiny, EXAMPLES, "contextual")
    torch.testing.assert_close(actual, expected / expected.sum(1, keepdim=True), atol=1e-4, rtol=1e-4)
    assert (plain - actual).abs().max() > 0.01


def test_batch_calibration_divides_by_the_mean_of_the_rows(tiny: Backbone) -> None:
    plain = probabilities(tiny, EXAMPLES, "none")
    expected = plain / plain.mean(0)
    actual = probabilities(tiny, EXAMPLES, "batch")
    torch.testing.assert_close(actual, expected / expected.sum(1, keepdim=True), atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 2**16))
def test_a_preference_of_every_row_alike_changes_nothing(preference: list[float], seed: int) -> None:
    """What calibration is for: a constant on each label's score goes out, if rows agree on the label's probability."""
    row = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(seed))
    rows = row.expand(1, 4, 3)
    shifted = rows + torch.tensor(preference)
    torch.testing.assert_close(
        calibrated(shifted, shifted).softmax(-1), torch.full((1, 4, 3), 1 / 3), atol=1e-4, rtol=1e-3
    )


def test_generated_labels_have_no_scores_to_calibrate() -> None:
    with pytest.raises(UserError, match="give scoring rank"):
        validated(EvaluateOptions, {"scoring": "generate", "calibration": "batch"})

"""Taking out of label scores what a model says whatever it reads."""

from __future__ import annotations

from torch import Tensor

from preface.tasks import Example

CONTENT_FREE = ("N/A", "[MASK]", "")
"""What stands for a text without content (Zhao et al. 2021, section 5)."""


def content_free(like: Example) -> list[Example]:
    """Examples without content, in the template of another."""
    return [Example(dict.fromkeys(like.fields, text), None, like.template) for text in CONTENT_FREE]


def calibrated(scores: Tensor, prior: Tensor) -> Tensor:
    """Log-probabilities of labels `[P, N, C]` over those that the rows of `prior` `[P, M, C]` have on the mean.

    The labels' probabilities are made to sum to 1 in each row first. With rows without content this is contextual
    calibration (Zhao et al. 2021, "Calibrate Before Use"); with the rows themselves, batch calibration (Zhou et al.
    2024), which looks at the texts of a test, though not at its labels.
    """
    return scores.log_softmax(-1) - prior.softmax(-1).mean(1, keepdim=True).log()

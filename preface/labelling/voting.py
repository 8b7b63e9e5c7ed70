"""How several prompts answer as one: by votes (Lester et al. 2021, section 6), by probabilities, or weighted ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from preface.records.card import Ensemble

ROUNDS = 200
"""Of the search for weights; each makes the development rows likelier, and few are needed."""


def combined(scores: Tensor, ensemble: Ensemble | None) -> Tensor:
    """Log-probabilities `[…, C]` of what E prompts say together, of each one's `[E, …, C]`; None: there is one prompt.

    `vote`: the share of the votes, a tie going to the label that is likelier on the mean.
    """
    if ensemble is None:
        return scores[0]
    probabilities = scores.softmax(-1)  # of the labels alone, [E, …, C]
    weights = torch.tensor(ensemble.weights, dtype=scores.dtype, device=scores.device)
    if ensemble.combine != "vote":
        return torch.tensordot(weights, probabilities, 1).log()
    votes = one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype).mean(0)  # […, C]
    return (votes + probabilities.mean(0) / (2 * len(scores) * scores.shape[-1])).log().log_softmax(-1)


def fitted_weights(scores: Tensor, gold: Tensor) -> list[float]:
    """The weights of E prompts whose mixture finds the right labels likeliest.

    By expectation maximisation, which for mixture weights alone climbs to the one maximum there is.

    Args:
        scores: `[E, N, C]`.
        gold: the place of each row's right label, `[N]`.
    """
    right = scores.softmax(-1).double().gather(2, gold.expand(len(scores), -1)[..., None])[..., 0]  # [E, N]
    weights = torch.full((len(scores), 1), 1 / len(scores), dtype=torch.double)
    for _ in range(ROUNDS):
        shares = weights * right + 1e-300
        weights = (shares / shares.sum(0)).mean(1, keepdim=True)
    fitted: list[float] = weights[:, 0].tolist()
    return fitted

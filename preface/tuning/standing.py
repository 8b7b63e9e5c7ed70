"""How something stands that is trained and scored now and then: a prompt of a population, or a tuned model."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Standing:
    """The best score so far, and whether training goes on."""

    score: float = -1.0
    loss: float = math.inf
    step: int = 0
    """The best score, its loss and its step."""
    stale: int = 0
    """Evaluations since the best."""
    active: bool = True
    """Whether it is still trained."""

    def judge(self, score: float, loss: float, step: int, patience: int | None) -> bool:
        """Whether this evaluation is the best; one that stands still for `patience` of them stops."""
        if (score, -loss) > (self.score, -self.loss):
            self.score, self.loss, self.step, self.stale = score, loss, step, 0
            return True
        self.stale += 1
        self.active = patience is None or self.stale < patience
        return False

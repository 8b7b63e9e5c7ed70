"""How the learning rate goes: a rise, then a fall as named.

Functions of the step and the share of the budget that is used up, which torch's schedulers, that count steps, are not:
a training may end after so many tokens or seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

ScheduleName = Literal["cosine", "inverse-sqrt", "linear", "constant"]
Unit = Literal["steps", "tokens", "seconds"]


@dataclass(frozen=True)
class Budget:
    """How long a training lasts."""

    total: float
    unit: Unit = "steps"

    def used(self, at: Any) -> float:
        """How much of the total is used up."""
        used: float = getattr(at, self.unit)
        return used


def rate_share(name: ScheduleName, step: int, done: float, warmup: int) -> float:
    """The share of the learning rate at a step: a linear rise over `warmup` steps, times the schedule.

    Args:
        done: share of the budget that is used up, in [0, 1], whatever it is counted in.
        warmup: steps; also where the inverse square root begins to fall (T5: 10,000).
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    match name:
        case "constant":
            return rise
        case "linear":
            return rise * max(0.0, 1 - done)
        case "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        case "inverse-sqrt":
            return rise * (max(warmup, 1) / max(step + 1, warmup, 1)) ** 0.5


def done_since(warmup: int, step: int, steps: int) -> float:
    """The share of the steps after the rise that is done, so that the fall begins where the rise ends."""
    return max(0, step - warmup) / max(1, steps - warmup)

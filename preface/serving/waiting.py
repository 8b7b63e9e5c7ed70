"""Requests that wait, and which of them go together next: whoever had least goes first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, Protocol, TypeVar


class Asked(Protocol):
    """What can wait."""

    @property
    def caller(self) -> str: ...


Item = TypeVar("Item", bound=Asked)

TOGETHER = 4
"""How many times as many may wait of all callers together as of one."""


class FullError(Exception):
    """As many wait as may."""


class ClosedError(Exception):
    """Nothing is taken any more."""


@dataclass
class _Caller(Generic[Item]):
    had: float
    """What was done for it, in the units of `cost`."""
    waiting: deque[Item] = field(default_factory=deque)


class Waiting(Generic[Item]):
    """A queue for each caller, emptied in turn by what each has had; callers put, one thread takes."""

    def __init__(self, most: int, changed: Condition | None = None) -> None:
        """`most`: that may wait, of one caller; `changed`: another queue's, whose taker hears of this too."""
        self.most = most
        self.changed = changed or Condition()
        self.callers: dict[str, _Caller[Item]] = {}
        self.count = 0
        self.closed = False

    def __len__(self) -> int:
        return self.count

    def put(self, items: list[Item], beside: int = 0) -> None:
        """Let several of one caller wait, or none of them; `beside`: others that wait elsewhere.

        Raises FullError, ClosedError.
        """
        with self.changed:
            if self.closed:
                raise ClosedError
            name = items[0].caller
            caller = self.callers.get(name)
            own = len(items) + (len(caller.waiting) if caller is not None else 0)
            if own > self.most or self.count + beside + len(items) > TOGETHER * self.most:
                raise FullError
            if caller is None:
                # who comes new has no claim on what others had before
                least = min((other.had for other in self.callers.values()), default=0.0)
                caller = self.callers[name] = _Caller(least)
            caller.waiting += items
            self.count += len(items)
            self.changed.notify()

    def close(self) -> None:
        """Take nothing new; what waits is still to be had."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    def take(
        self,
        cost: Callable[[Item], float],
        budget: float,
        wait: float,
        idle: bool,
        enough: Callable[[list[Item]], bool] = lambda taken: False,
        other: Callable[[], bool] = lambda: False,
    ) -> list[Item]:
        """What goes together next: whole items, the first whatever it costs, the others within the budget.

        Args:
            cost: of an item, beside those that were taken before it.
            budget: of all costs.
            wait: seconds to wait for more where there is less than the budget.
            idle: whether to wait until there is something.
            enough: whether what has come need not wait for more.
            other: whether there is something else to do, for which an idle one wakes too.

        Returns:
            Empty: nothing waits; if `idle`, and there is nothing else to do, nothing will any more.
        """
        with self.changed:
            if idle:
                self.changed.wait_for(lambda: self.count or self.closed or other())
            taken, left = self._taken(cost, budget)
            until = time.monotonic() + wait
            while idle and taken and left > 0 and not (enough(taken) or self.closed):
                if (rest := until - time.monotonic()) <= 0:
                    break
                self.changed.wait_for(lambda: self.count or self.closed, timeout=rest)
                more, left = self._taken(cost, left, first=False)
                taken += more
            return taken

    def _taken(self, cost: Callable[[Item], float], budget: float, first: bool = True) -> tuple[list[Item], float]:
        """What the budget allows now, and what is left of it: nothing, where something does not fit."""
        taken: list[Item] = []
        while self.callers:
            name, caller = min(self.callers.items(), key=lambda pair: pair[1].had)
            price = cost(caller.waiting[0])
            if price > budget and (taken or not first):
                return taken, 0.0
            taken.append(caller.waiting.popleft())
            self.count -= 1
            budget -= price
            caller.had += price
            if not caller.waiting:
                del self.callers[name]
        return taken, budget

"""What was used lately, within so many bytes: texts that were read, prompts that are loaded, prompts side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Things by their keys; those that were not used for longest make room. The last one stays, whatever its size."""

    def __init__(self, keep: int, size: Callable[[V], int]) -> None:
        """`keep`: bytes that all may have together; `size`: bytes of one."""
        self.keep, self.size, self.bytes = keep, size, 0
        self.things: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self.things

    def __iter__(self) -> Iterator[K]:
        """The keys, the one that was not used for longest first."""
        return iter(self.things)

    def __len__(self) -> int:
        return len(self.things)

    def get(self, key: K) -> V | None:
        """None: it is not there."""
        if key in self.things:
            self.things.move_to_end(key)
        return self.things.get(key)

    def put(self, key: K, thing: V) -> None:
        self.forget(key)
        self.things[key] = thing
        self.bytes += self.size(thing)
        while self.bytes > self.keep and len(self.things) > 1:
            self.forget(next(iter(self.things)))

    def forget(self, key: K) -> None:
        """If it is there."""
        if (thing := self.things.pop(key, None)) is not None:
            self.bytes -= self.size(thing)

"""Words packed into one answer as a tree: what two words have in common at their beginning stands there once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PLACES = 256
"""What is answered at once of many label words: 1,000 of them in 2.4 instead of 8.1 seconds (`benchmarks/long.py`)."""


@dataclass(frozen=True)
class Tree:
    """Words in S places: a place sees those that lead to it, and no others."""

    parents: tuple[int, ...]
    """The place before each; −1 at the first."""
    inputs: tuple[int, ...]
    """The piece that each place reads."""
    steps: tuple[tuple[int, int, int], ...]
    """(place, piece, word): the word goes on with the piece after that place."""

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], lead_in: Sequence[int]) -> Tree:
        """Of the pieces of some words, all of which follow the pieces of `lead_in`."""
        parents, inputs = list(range(-1, len(lead_in) - 1)), list(lead_in)
        places: dict[tuple[int, ...], int] = {(): len(lead_in) - 1}  # by the pieces that lead there
        steps = []
        for word, pieces in enumerate(words):
            for length, piece in enumerate(pieces):
                place = places[tuple(pieces[:length])]
                steps.append((place, piece, word))
                after = tuple(pieces[: length + 1])
                if length + 1 < len(pieces) and after not in places:  # nothing follows the last piece
                    places[after] = len(parents)
                    parents.append(place)
                    inputs.append(piece)
        return cls(tuple(parents), tuple(inputs), tuple(steps))

    @property
    def words(self) -> int:
        return 1 + max((word for _, _, word in self.steps), default=-1)

    @cached_property
    def positions(self) -> Tensor:
        """How far each place is from the start, `[S]`."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return torch.tensor(depths)

    @cached_property
    def mask(self) -> Tensor:
        """`[S, S]`: a place sees itself and those that lead to it."""
        seen = torch.eye(len(self.parents), dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


@dataclass(frozen=True)
class Trees:
    """V trees side by side, padded to S places, K steps and C words; or those of B rows."""

    inputs: Tensor
    """`[V, S]`."""
    positions: Tensor
    """`[V, S]`; `[S]` where all rows have one tree."""
    mask: Tensor
    """`[V, S, S]`."""
    places: Tensor
    """Of each step, `[V, K]`."""
    pieces: Tensor
    """`[V, K]`."""
    owners: Tensor
    """The word of each step, C where it is padding, `[V, K]`."""
    counts: Tensor
    """Words of each, `[V]`."""
    words: int
    """C."""

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Trees:
        words = max(tree.words for tree in trees)
        size = max(len(tree.parents) for tree in trees)
        mask = torch.eye(size, dtype=torch.bool).repeat(len(trees), 1, 1)  # a place that is padding sees itself
        for number, tree in enumerate(trees):
            mask[number, : len(tree.parents), : len(tree.parents)] = tree.mask
        places, pieces, owners = ([[step[part] for step in tree.steps] for tree in trees] for part in range(3))
        return cls(
            _padded([tree.inputs for tree in trees]),
            pad_sequence([tree.positions for tree in trees], batch_first=True),
            mask,
            _padded(places),
            _padded(pieces),
            _padded(owners, words),
            torch.tensor([tree.words for tree in trees]),
            words,
        )

    @classmethod
    def in_parts(cls, several: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]]) -> list[Trees]:
        """Of V lists of words, each with its lead-in, cut so that no tree has many more than `PLACES` places: attention
        costs their square. The columns of the parts side by side are those of the whole."""
        places = max(sum(len(pieces) - 1 for pieces in words) for words, _ in several)
        longest = max(len(words) for words, _ in several)
        size = -(-longest // max(1, -(-places // PLACES)))
        starts = range(0, longest, size)
        return [cls.of([Tree.of(words[at : at + size], lead_in) for words, lead_in in several]) for at in starts]

    def of_rows(self, which: Tensor) -> Trees:
        """The tree of each row of a batch, `which` `[B]`. A single tree is not copied for its rows."""
        if len(self.counts) > 1:
            return self._map(lambda item: item[which])
        several = self._map(lambda item: item.expand(len(which), *item.shape[1:]))
        return replace(several, positions=self.positions[0])

    def to(self, device: torch.device) -> Trees:
        return self._map(lambda item: item.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Trees:
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "words"}
        return Trees(words=self.words, **{name: change(tensor) for name, tensor in tensors.items()})


def _padded(rows: Sequence[Sequence[int]], value: int = 0) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)

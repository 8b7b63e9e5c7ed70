"""What was read of texts that were served lately, kept by recency: under another prompt they are not read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch.nn.utils.rnn import pad_sequence

from preface.backbones.base import Context

KEEP = 2**31
"""Bytes of contexts that are kept."""

Key = tuple[Any, ...]
"""A text's pieces, and the prompt that it is read with, if it is one that changes the reading."""


class KeptTexts:
    """Contexts of single texts, `[1, m, w]`, without padding."""

    def __init__(self, keep: int = KEEP) -> None:
        self.keep, self.bytes = keep, 0
        self.contexts: OrderedDict[Key, Context] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self.contexts

    def __len__(self) -> int:
        return len(self.contexts)

    def get(self, key: Key) -> Context:
        """Raises KeyError if it is not there."""
        self.contexts.move_to_end(key)
        return self.contexts[key]

    def put(self, key: Key, context: Context) -> None:
        """Keep a context, and let go of those that were not used for longest; the last one stays, whatever its size."""
        if key in self.contexts:
            return
        self.contexts[key] = context
        self.bytes += context.states.nbytes
        while self.bytes > self.keep and len(self.contexts) > 1:
            _, oldest = self.contexts.popitem(last=False)
            self.bytes -= oldest.states.nbytes


def side_by_side(contexts: Sequence[Context]) -> Context:
    """Contexts of single texts as one of N, padded on the right."""
    if len(contexts) == 1:
        return contexts[0]
    states = pad_sequence([context.states[0] for context in contexts], batch_first=True)
    mask = pad_sequence([context.mask[0] for context in contexts], batch_first=True)
    return Context(states, mask)


def apart(context: Context) -> list[Context]:
    """The opposite: the context of each text, without what is padding, and no view of the whole."""
    real = context.mask.bool()
    return [Context(context.states[row, seen][None], context.mask[row, seen][None]) for row, seen in enumerate(real)]

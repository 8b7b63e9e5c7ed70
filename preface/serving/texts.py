"""What was read of texts, each by itself, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.nn.utils.rnn import pad_sequence

from preface.backbones.base import Context

Key = tuple[Any, ...]
"""A text's pieces, and the prompt that it is read with, if it is one that changes the reading."""


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

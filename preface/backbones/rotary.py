"""How a key turns where it stands at another position (rotary positions, Su et al. 2021).

Which numbers of a key turn, and how fast, differs between families, and in some between layers. Rather than know each,
what there is is tried on keys that the model itself makes at two positions, and what fits them is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

Turn = Callable[[Tensor], Tensor]
"""Keys `[..., e]`, so many positions later."""


def turn_between(model: nn.Module, now: Tensor, later: Tensor, steps: int) -> tuple[Turn, float]:
    """What makes of a layer's keys `[..., e]` the same `steps` positions later.

    Args:
        model: whose tables of frequencies are tried.
        now, later: the same keys at two positions that are `steps` apart, `[..., e]`.

    Returns:
        What fits best, and by what share of the keys' length it is wrong.
    """
    errors = [(float((turn(now) - later).norm() / later.norm()), turn) for turn in _turns(model, now.shape[-1], steps)]
    error, best = min(errors, key=lambda item: item[0])
    return best, error


def _turns(model: nn.Module, width: int, steps: int) -> Iterator[Turn]:
    """The ways there are: not at all, and by each table of the model, of one number for every two of a key."""
    yield lambda keys: keys
    for name, frequencies in model.named_buffers():
        if name.endswith("inv_freq") and 2 * len(frequencies) <= width:
            angles = steps * frequencies.double().cpu()
            for side_by_side in (False, True):
                yield partial(turned, angles=angles, side_by_side=side_by_side)


def turned(keys: Tensor, angles: Tensor, side_by_side: bool) -> Tensor:
    """Keys `[..., e]`, of which the first 2·a numbers turn in a pairs by angles `[a]`.

    `side_by_side`: a pair's numbers are next to each other, as in GLM; else the second stands a after the first.
    """
    turning, rest = keys.split([2 * len(angles), keys.shape[-1] - 2 * len(angles)], dim=-1)
    first, second = turning.unflatten(-1, (-1, 2)).unbind(-1) if side_by_side else turning.chunk(2, dim=-1)
    cos, sin = angles.cos().to(keys), angles.sin().to(keys)
    both = (first * cos - second * sin, second * cos + first * sin)
    joined = torch.stack(both, dim=-1).flatten(-2) if side_by_side else torch.cat(both, dim=-1)
    return torch.cat([joined, rest], dim=-1)

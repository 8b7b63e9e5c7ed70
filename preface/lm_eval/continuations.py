"""How likely continuations of a context are, and whether a model would have written them itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preface.backbones.base import Backbone, Context
from preface.backbones.frozen import PIECES
from preface.backbones.tree import Tree, Trees
from preface.prompts import Prompts


def continuation_scores(
    backbone: Backbone,
    context: Context,
    lead_ins: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    prompts: Prompts | None = None,
) -> list[list[tuple[float, bool]]]:
    """Of each continuation its log-probability, and whether each piece is the likeliest in its place.

    All continuations of a context lie in one answer as a tree, and each is scored as if it stood alone.

    Args:
        context: of B texts.
        lead_ins: the pieces that the answers about each begin after.
        continuations: pieces, for each text of as many as there are.
        prompts: the one prompt of all; None: the bare backbone.
    """
    several = [Tree.of(some, lead_in) for some, lead_in in zip(continuations, lead_ins, strict=True)]
    trees = Trees.of(several).to(backbone.device)
    hidden = backbone.answer(context, trees.inputs, prompts, None, trees.mask[:, None], trees.positions)  # [B, S, d]
    totals, likeliest = _over_vocabulary(backbone, hidden.flatten(0, 1))
    own = hidden.gather(1, trees.places[..., None].expand(-1, -1, hidden.shape[2]))  # [B, K, d]
    steps = backbone.head.logits_of(own, trees.pieces) - totals.view(len(hidden), -1).gather(1, trees.places)  # [B, K]
    missed = likeliest.view(len(hidden), -1).gather(1, trees.places) != trees.pieces  # [B, K]
    scores, misses = (  # the last column takes what is padding
        steps.new_zeros(len(hidden), trees.words + 1).scatter_add_(1, trees.owners, of_steps)[:, :-1].tolist()
        for of_steps in (steps, missed.to(steps.dtype))
    )
    return [
        [(scores[row][word], misses[row][word] == 0) for word in range(len(some))]
        for row, some in enumerate(continuations)
    ]


def _over_vocabulary(backbone: Backbone, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp of all logits after each of M places `[M, d]`, and the likeliest piece, `[M]` each."""
    totals, likeliest = [], []
    for some in hidden.split(PIECES):
        logits = backbone.head.logits(some)  # [m, vocabulary]
        totals.append(logits.logsumexp(1))
        likeliest.append(logits.argmax(1))
    return torch.cat(totals), torch.cat(likeliest)

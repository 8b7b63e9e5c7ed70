"""Which examples go into a batch together. Padding is waste, so batches are cut by length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

POOL = 64
"""Batches sorted by length together; more saves padding, fewer mixes better."""
PADDING = 0.1
"""Of an evaluation batch, where another batch is to be had for it."""


def cut(
    order: Sequence[int],
    lengths: Sequence[int],
    batch_size: int | None,
    token_budget: int | None,
    least: float | None = None,
) -> list[list[int]]:
    """Cut `order` into batches of at most `batch_size` rows whose padded size is at most `token_budget` tokens.

    A row longer than the budget stands alone. A batch of `least` tokens ends where the next row would make too much of
    it `PADDING`; None: it never does.
    """
    batches: list[list[int]] = []
    longest, real = 0, 0
    for index in order:
        rows = len(batches[-1]) + 1 if batches else 1
        padded, tokens = max(longest, lengths[index]) * rows, real + lengths[index]
        full = (
            (batch_size is not None and rows > batch_size)
            or (token_budget is not None and padded > token_budget)
            or (least is not None and real >= least and tokens < (1 - PADDING) * padded)
        )
        if not batches or full:
            batches.append([])
            longest, real = 0, 0
        batches[-1].append(index)
        longest, real = max(longest, lengths[index]), real + lengths[index]
    return batches


def padded(sequences: Sequence[Sequence[int]], padding: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, T]`, padded on the right, or on the `left`, on the CPU."""
    length = max(map(len, sequences))
    if left:
        ids, mask = padded([item[::-1] for item in sequences], padding)
        return ids.flip(1), mask.flip(1)
    ids = torch.tensor([[*item, *[padding] * (length - len(item))] for item in sequences])
    mask = torch.tensor([[1] * len(item) + [0] * (length - len(item)) for item in sequences])
    return ids, mask


def epoch(
    lengths: Sequence[int],
    seed: int,
    number: int,
    batch_size: int | None = None,
    token_budget: int | None = None,
) -> list[list[int]]:
    """The batches of one epoch, each row once.

    Rows are shuffled by `seed`, sorted by length within pools of batches, and the batches of a pool are shuffled by
    an order that is the same for every seed: so at each step all members of a population, whatever their seeds, see
    rows of about the same length, and none depends on who trains beside it.
    """
    order = list(range(len(lengths)))
    random.Random(f"rows/{seed}/{number}").shuffle(order)
    size = batch_size or max(1, (token_budget or 1) * len(lengths) // max(1, sum(lengths)))
    batches_in_all = -(-len(order) // size)
    # a pool must be a small part of an epoch, or the same rows would always meet
    pool = size * max(1, min(POOL, batches_in_all // 8))
    batches = []
    for part, start in enumerate(range(0, len(order), pool)):
        rows = sorted(order[start : start + pool], key=lambda index: lengths[index])
        cuts = cut(rows, lengths, batch_size, token_budget)
        random.Random(f"batches/{number}/{part}").shuffle(cuts)
        batches += cuts
    return batches


def endless(
    lengths: Sequence[int],
    seed: int,
    batch_size: int | None = None,
    token_budget: int | None = None,
    skip: int = 0,
) -> Iterator[list[int]]:
    """Batches epoch after epoch, from batch number `skip` on."""
    number = 0
    while True:
        batches = epoch(lengths, seed, number, batch_size, token_budget)
        yield from batches[skip:]
        skip = max(0, skip - len(batches))
        number += 1


def by_length(lengths: Sequence[int], token_budget: int, batch_size: int | None = None) -> list[list[int]]:
    """Every row once, longest first, for evaluation: as many as fit the budget, a row longer than it alone, and at most
    `batch_size`.

    In a small set neighbours differ much, so a batch of a quarter of the budget ends where the next row would make a
    tenth of it padding.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return cut(order, lengths, batch_size, token_budget, least=token_budget / 4)


def answers_of(targets: Sequence[Sequence[int]], lead_in: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What answers read, and the piece to come after each (−100: none is learned), both `[B, S]`.

    On the CPU, where counting labels keeps no device waiting.
    """
    unlearned = [-100] * (len(lead_in) - 1)
    inputs = [torch.tensor([*lead_in, *pieces[:-1]]) for pieces in targets]
    labels = [torch.tensor([*unlearned, *pieces]) for pieces in targets]
    return pad_sequence(inputs, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)

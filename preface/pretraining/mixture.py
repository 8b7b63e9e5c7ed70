"""Which objective a step has, and its batch: each follows from seed and step alone, so that a run can be resumed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from preface.backbones.base import send
from preface.backbones.pieces import CausalPieces, Pieces
from preface.errors import UserError
from preface.pretraining.instructions import mixing_rates
from preface.pretraining.objectives import Ids, noise_mask, prefix_lm, span_corruption, span_lengths
from preface.pretraining.settings import ObjectiveName
from preface.tasks import Example, render
from preface.tasks.task import CUE

IGNORED = -100
"""A label that is padding."""
PAD_STEP = 8
"""Padded lengths are multiples of so many tokens, so that compiled kernels see few shapes."""
WINDOW = 8
"""Steps whose rows are drawn together and sorted by length, so that little is padded."""


@dataclass(frozen=True)
class Batch:
    """What a step reads and must say."""

    objective: ObjectiveName
    inputs: Tensor
    """`[B, T]`."""
    mask: Tensor | None
    """`[B, T]`, 1 where a token is real; None: everywhere."""
    labels: Tensor
    """`[B, S]`, −100 for padding."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device, copied while it still computes what came before."""
        mask = None if self.mask is None else send(self.mask, device)
        return Batch(self.objective, send(self.inputs, device), mask, send(self.labels, device))

    def rows(self, part: slice) -> Batch:
        """Some of its rows."""
        mask = None if self.mask is None else self.mask[part]
        return Batch(self.objective, self.inputs[part], mask, self.labels[part])

    @property
    def tokens(self) -> int:
        """Tokens that were read and, for the prefix language model, continued; padding does not count."""
        read = self.inputs.numel() if self.mask is None else int(self.mask.sum())
        return read + (self.labels.numel() if self.objective == "prefix-lm" else 0)


class Objective(Protocol):
    """Makes the batch of a step."""

    def batch(self, step: int, rows: int) -> Batch: ...


class Chunks:
    """A flat file of tokens as chunks of one length: all of them once an epoch, in an order and from an offset that
    are new in each."""

    def __init__(self, tokens: NDArray[Any], length: int, seed: int) -> None:
        self.tokens, self.length, self.seed = tokens, length, seed
        self.count = (len(tokens) - length) // length
        if self.count < 1:
            raise UserError(f"tokens: {len(tokens):,} are too few for chunks of {length}; give more text")
        self.epochs: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def rows(self, first: int, rows: int) -> Ids:
        """Chunks number `first`, `first + 1`, … of the endless sequence, `[rows, length]`."""
        found = []
        for number in range(first, first + rows):
            epoch, place = divmod(number, self.count)
            if epoch not in self.epochs:
                generator = np.random.default_rng([self.seed, epoch])
                self.epochs = {epoch: (int(generator.integers(self.length)), generator.permutation(self.count))}
            offset, order = self.epochs[epoch]
            start = offset + int(order[place]) * self.length
            found.append(self.tokens[start : start + self.length])
        return np.stack(found).astype(np.int64)


class SpanCorruption:
    """Packed chunks with hidden spans, every batch of the same shape."""

    def __init__(self, tokens: NDArray[Any], tokenizer: PreTrainedTokenizerBase, input_length: int, seed: int) -> None:
        self.lengths = span_lengths(input_length)
        self.sentinels = sentinels(tokenizer)
        if self.lengths.spans > len(self.sentinels):
            raise UserError(
                f"span-corruption: {input_length} tokens need {self.lengths.spans} sentinels and the tokenizer has "
                f"{len(self.sentinels)} (<extra_id_0>, …); give a shorter --input-length or another tokenizer"
            )
        self.eos = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        self.chunks, self.seed = Chunks(tokens, self.lengths.raw, seed), seed

    def batch(self, step: int, rows: int) -> Batch:
        mask = noise_mask(np.random.default_rng([self.seed, 1, step]), rows, self.lengths)
        chunks = self.chunks.rows(step * rows, rows)
        inputs, labels = span_corruption(chunks, mask, self.sentinels, self.eos)
        return Batch("span-corruption", torch.from_numpy(inputs), None, torch.from_numpy(labels))


class PrefixLM:
    """Packed chunks cut in two."""

    def __init__(self, tokens: NDArray[Any], tokenizer: PreTrainedTokenizerBase, input_length: int, seed: int) -> None:
        self.eos = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        self.chunks, self.seed = Chunks(tokens, input_length - 1, seed), seed

    def batch(self, step: int, rows: int) -> Batch:
        generator = np.random.default_rng([self.seed, 2, step])
        inputs, labels = prefix_lm(generator, self.chunks.rows(step * rows, rows), self.eos)
        return Batch("prefix-lm", torch.from_numpy(inputs), None, torch.from_numpy(labels.copy()))


class LanguageModel:
    """Packed chunks, each of whose pieces follows from those before it: what a decoder-only model learns of text."""

    def __init__(self, tokens: NDArray[Any], input_length: int, seed: int) -> None:
        self.chunks = Chunks(tokens, input_length, seed)

    def batch(self, step: int, rows: int) -> Batch:
        chunks = torch.from_numpy(self.chunks.rows(step * rows, rows))
        return Batch("prefix-lm", chunks[:, :1], None, chunks[:, 1:])


class Instructions:
    """Tasks as text, mixed in proportion to their capped sizes; each draw takes one of a task's templates."""

    def __init__(
        self,
        tasks: Mapping[str, Sequence[Sequence[Example]]],
        pieces: Pieces,
        input_length: int,
        seed: int,
        cues: Mapping[str, str] | None = None,
    ) -> None:
        """`cues`: of each task, where it has one of its own."""
        self.tasks, self.pieces, self.input_length, self.seed = tasks, pieces, input_length, seed
        self.cues = cues or {}
        self.rates = mixing_rates({name: len(templates[0]) for name, templates in tasks.items()})
        self.window: tuple[int, int, list[list[tuple[list[int], list[int]]]]] = (-1, 0, [])

    def batch(self, step: int, rows: int) -> Batch:
        number, place = divmod(step, WINDOW)
        if self.window[:2] != (number, rows):
            self.window = (number, rows, self._draw(number, rows))
        drawn = self.window[2][place]
        padding = self.pieces.tokenizer.pad_token_id
        padding = self.pieces.end if padding is None else int(padding)  # type: ignore[arg-type]
        # a decoder-only model goes on where its input ends
        inputs, mask = _padded([text for text, _ in drawn], padding, left=isinstance(self.pieces, CausalPieces))
        labels, _ = _padded([answer for _, answer in drawn], IGNORED)
        return Batch("instructions", inputs, mask, labels)

    def _draw(self, window: int, rows: int) -> list[list[tuple[list[int], list[int]]]]:
        """The rows of a window's steps, each step's of like length."""
        dice = random.Random(f"instructions/{self.seed}/{window}")
        names = dice.choices(list(self.rates), list(self.rates.values()), k=rows * WINDOW)
        examples = [dice.choice(dice.choice(self.tasks[name])) for name in names]
        pairs = [self._pair(example, self.cues.get(name, CUE)) for name, example in zip(names, examples, strict=True)]
        pairs.sort(key=lambda pair: len(pair[0]))
        steps = [pairs[start : start + rows] for start in range(0, len(pairs), rows)]
        dice.shuffle(steps)
        return steps

    def _pair(self, example: Example, cue: str) -> tuple[list[int], list[int]]:
        """What is read, and what is said, ended."""
        pieces = self.pieces
        (read,), _ = render(pieces.tokenize, [example], self.input_length, pieces.question("{text}", cue))
        (said,) = pieces.answer_pieces([str(example.label)], cue)
        if isinstance(pieces, CausalPieces):
            return [*read, *pieces.lead_in(cue)], [*said, pieces.end]
        return read, said


class Mixture:
    """Objectives by weight: each step draws one, and makes its batch while the step before is computed."""

    def __init__(self, objectives: Mapping[ObjectiveName, Objective], weights: Mapping[str, float], seed: int) -> None:
        self.objectives, self.seed = objectives, seed
        self.names = list(objectives)
        self.shares = np.array([weights[name] for name in self.names]) / sum(weights[name] for name in self.names)
        self.ahead = ThreadPoolExecutor(1, "batches")
        self.next: tuple[tuple[int, int], Future[Batch]] | None = None

    def objective_at(self, step: int) -> ObjectiveName:
        """The objective of a step."""
        place = np.random.default_rng([self.seed, 0, step]).choice(len(self.names), p=self.shares)
        return self.names[int(place)]

    def batch(self, step: int, rows: int) -> Batch:
        """The batch of a step; the next step's is begun."""
        begun = self.next
        batch = begun[1].result() if begun is not None and begun[0] == (step, rows) else self._make(step, rows)
        self.next = ((step + 1, rows), self.ahead.submit(self._make, step + 1, rows))
        return batch

    def close(self) -> None:
        """End the thread."""
        self.ahead.shutdown()

    def _make(self, step: int, rows: int) -> Batch:
        return self.objectives[self.objective_at(step)].batch(step, rows)


def sentinels(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """Ids of `<extra_id_0>`, `<extra_id_1>`, … as far as the tokenizer has them."""
    known = tokenizer.get_vocab()
    found: list[int] = []
    while (name := f"<extra_id_{len(found)}>") in known:
        found.append(known[name])
    return np.array(found, dtype=np.int64)


def _padded(sequences: list[list[int]], padding: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, T]`, T a multiple of 8; padded on the right, or on the `left`."""
    length = -(-max(map(len, sequences)) // PAD_STEP) * PAD_STEP
    ids = torch.full((len(sequences), length), padding)
    mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        own = slice(length - len(sequence), None) if left else slice(len(sequence))
        ids[row, own] = torch.tensor(sequence)
        mask[row, own] = 1
    return ids, mask

"""What is hidden from a model in pre-training, and what it must say: span corruption and the prefix language model.

Pure functions over arrays of token ids, a whole batch at a time; a generator decides, so a batch can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preface.errors import UserError

DENSITY = 0.15
MEAN_SPAN = 3.0
"""Share of tokens that are hidden, and the mean length of a hidden span (Raffel et al. 2020, section 3.3.4)."""
PIVOT_STEP = 8
"""A prefix ends at a multiple of so many tokens, so that compiled kernels see few shapes."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SpanLengths:
    """How a packed chunk of `raw` tokens divides so that its corrupted input has exactly the length required."""

    raw: int
    noise: int
    spans: int

    @property
    def inputs(self) -> int:
        """Tokens that the encoder reads: what is left, a sentinel for each span, `</s>`."""
        return self.raw - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """Tokens that the decoder writes: what is hidden, a sentinel before each span, `</s>`."""
        return self.noise + self.spans + 1


def span_lengths(inputs: int, density: float = DENSITY, mean_span: float = MEAN_SPAN) -> SpanLengths:
    """The largest chunk whose corrupted input is at most `inputs` tokens long. Raises UserError if there is none."""
    best = None
    for raw in range(2, 2 * inputs + 2):
        noise = min(max(round(raw * density), 1), raw - 1)
        spans = max(round(noise / mean_span), 1)
        lengths = SpanLengths(raw, noise, spans)
        if raw - noise >= spans and lengths.inputs <= inputs:
            best = lengths
    if best is None:
        raise UserError(f"input-length {inputs}: too short to hide a span in; give 8 or more")
    return best


def noise_mask(generator: np.random.Generator, rows: int, lengths: SpanLengths) -> NDArray[np.bool_]:
    """Which tokens are hidden, `[rows, raw]`: seen and hidden spans of random lengths take turns, a seen one first."""
    hidden = _segments(generator, rows, lengths.noise, lengths.spans)  # [rows, spans]
    seen = _segments(generator, rows, lengths.raw - lengths.noise, lengths.spans)  # [rows, spans]
    turns = np.stack([seen, hidden], axis=2).reshape(rows, -1)  # [rows, 2 spans]: seen, hidden, seen, …
    ends = turns.cumsum(1)[:, :-1]
    starts = np.zeros((rows, lengths.raw), dtype=np.int64)
    np.put_along_axis(starts, ends, 1, axis=1)
    return starts.cumsum(1) % 2 == 1


def _segments(generator: np.random.Generator, rows: int, items: int, segments: int) -> Ids:
    """`items` cut into `segments` non-empty parts, every cut as likely as any other: lengths `[rows, segments]`."""
    cuts = np.sort(generator.random((rows, items - 1)).argsort(1)[:, : segments - 1] + 1, axis=1)
    edges = np.concatenate([np.zeros((rows, 1)), cuts, np.full((rows, 1), items)], axis=1)
    return np.diff(edges).astype(np.int64)


def span_corruption(tokens: Ids, mask: NDArray[np.bool_], sentinels: Ids, eos: int) -> tuple[Ids, Ids]:
    """Inputs and targets of T5 (Raffel et al. 2020, section 3.1.4), each ended by `</s>`.

    Args:
        tokens: `[B, raw]`.
        mask: `[B, raw]`, True where a token is hidden; the same number of tokens and spans in every row.
        sentinels: ids of `<extra_id_0>`, `<extra_id_1>`, …
    """
    starts = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]  # [B, raw], the first token of each hidden span
    number = starts.cumsum(1) - 1
    names = sentinels[np.clip(number, 0, len(sentinels) - 1)]  # [B, raw], the sentinel of the span so far
    rows = len(tokens)
    inputs = np.where(starts, names, tokens)[~mask | starts].reshape(rows, -1)
    pairs = np.stack([names, tokens], axis=2)  # [B, raw, 2]: before each token, room for its span's sentinel
    targets = pairs[np.stack([starts, mask], axis=2)].reshape(rows, -1)
    end = np.full((rows, 1), eos)
    return np.concatenate([inputs, end], axis=1), np.concatenate([targets, end], axis=1)


def prefix_lm(generator: np.random.Generator, tokens: Ids, eos: int) -> tuple[Ids, Ids]:
    """The beginning of each chunk, ended by `</s>`, and how it goes on (the LM adaptation of Lester et al. 2021, 3.2).

    All rows of a batch are cut at the same place, a random multiple of 8 tokens, so that nothing is padded. The
    continuation has no `</s>` of its own: the text does not end there.
    """
    last = (tokens.shape[1] - 1) // PIVOT_STEP
    pivot = PIVOT_STEP * int(generator.integers(1, last + 1)) if last else tokens.shape[1] // 2
    # with `</s>` the input is a multiple of 8 tokens too
    inputs = np.concatenate([tokens[:, : pivot - 1], np.full((len(tokens), 1), eos)], axis=1)
    return inputs, tokens[:, pivot - 1 :]

"""From a frozen model and an injection to predictions: rank classification, and free generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from preface.backbone import Backbone, EncoderStates
from preface.batching import by_length
from preface.errors import UserError
from preface.injection import Injection

TOKEN_BUDGET = 8_192
"""Encoder tokens, padding, input embeddings and prefix included, in one evaluation batch."""
LOGITS = 2**27
"""Numbers in one batch's logits, at most: half a gigabyte in float32."""


@dataclass(frozen=True)
class LabelWords:
    """The words that stand for the labels, and their pieces, each ended by `</s>`."""

    words: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, backbone: Backbone, words: Sequence[str]) -> LabelWords:
        """Tokenise label words.

        Raises:
            UserError: fewer than two words, a word that the vocabulary cannot spell, or two words with the same pieces.
        """
        if len(set(words)) < 2:
            raise UserError(f"labels: at least two different label words are needed, got {', '.join(words) or 'none'}")
        unknown = backbone.tokenizer.unk_token_id
        pieces, _ = backbone.tokenize(words, max_tokens=64)
        seen: dict[tuple[int, ...], str] = {}
        for word, ids in zip(words, map(tuple, pieces), strict=True):
            if unknown in ids or len(ids) < 2:
                raise UserError(
                    f"label word {word!r} does not fit the vocabulary of {backbone.name}; "
                    "give another word with --label-words"
                )
            if ids in seen:
                raise UserError(f"label words {seen[ids]!r} and {word!r} are the same pieces for {backbone.name}")
            seen[ids] = word
        return cls(tuple(words), tuple(seen))

    @cached_property
    def labels(self) -> Tensor:
        """The label of each packed position, `[S]`."""
        return torch.tensor([label for label, ids in enumerate(self.pieces) for _ in ids])

    @cached_property
    def targets(self) -> Tensor:
        """All pieces side by side, `[S]`."""
        return torch.tensor([piece for ids in self.pieces for piece in ids])

    @cached_property
    def positions(self) -> Tensor:
        """The place of each piece in its own word, `[S]`."""
        return torch.tensor([place for ids in self.pieces for place in range(len(ids))])

    @cached_property
    def mask(self) -> Tensor:
        """`[1, 1, S, S]`: a piece sees the pieces before it in its own word, and no other word."""
        same = self.labels[:, None] == self.labels[None, :]
        return (same & (self.positions[:, None] >= self.positions[None, :]))[None, None]


def rank(backbone: Backbone, states: EncoderStates, labels: LabelWords, injection: Injection | None) -> Tensor:
    """Log-probabilities `[B, C]` of each label's words, `</s>` included.

    All words lie side by side in one decoder input, hidden from each other by the mask. T5 knows only distances
    between positions, so each is scored as if it stood alone, and the encoder states are shared by all.
    """
    device, size = backbone.device, len(states.hidden)
    targets = labels.targets.to(device)
    decoder_input = torch.where(
        labels.positions.to(device) == 0, backbone.model.config.decoder_start_token_id, targets.roll(1)
    )
    hidden = backbone.decoder_states(
        states,
        decoder_input.expand(size, -1),
        injection,
        decoder_mask=labels.mask.to(device).expand(size, 1, -1, -1),
        query_positions=labels.positions.to(device),
    )  # [B, S, d]
    head = backbone.model.lm_head
    # the label's own logits in float32: rounded to bfloat16, different labels would tie
    chosen = (hidden.float() * head.weight[targets].float()).sum(-1)  # [B, S]
    log_probabilities = chosen - head(hidden).float().logsumexp(-1)
    return log_probabilities.new_zeros(size, len(labels.words)).index_add_(
        1, labels.labels.to(device), log_probabilities
    )


@torch.inference_mode()
def score(
    backbone: Backbone,
    inputs: Sequence[Sequence[int]],
    labels: LabelWords,
    injection: Injection | None = None,
    rows: Sequence[int] | None = None,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Log-probabilities `[N, C]` of the label words for N tokenised inputs, in their order, on the CPU.

    `rows` names each input's prompt (default: the first); `on_batch` hears how many inputs were done.
    """
    output = torch.empty(len(inputs), len(labels.words))
    largest = max(1, LOGITS // (len(labels.targets) * backbone.shape.vocabulary))
    for batch in _batches(backbone, inputs, injection, rows, largest):
        states = backbone.encode(batch.ids, batch.mask, batch.injection)
        output[batch.indices] = rank(backbone, states, labels, batch.injection).cpu()
        on_batch(len(batch.indices))
    return output


@torch.inference_mode()
def generate(
    backbone: Backbone,
    inputs: Sequence[Sequence[int]],
    injection: Injection | None = None,
    rows: Sequence[int] | None = None,
    max_new_tokens: int = 16,
    num_beams: int = 1,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """The text that the model writes freely for each tokenised input."""
    output = [""] * len(inputs)
    for batch in _batches(backbone, inputs, injection, rows):
        tokens = backbone.generate(
            batch.ids, batch.mask, batch.injection, max_new_tokens=max_new_tokens, num_beams=num_beams
        )
        texts = backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for index, text in zip(batch.indices, texts, strict=True):
            output[index] = text.strip()
        on_batch(len(batch.indices))
    return output


def metric(name: str, gold: Sequence[str], predicted: Sequence[str]) -> float:
    """`accuracy` or `macro_f1`, by scikit-learn. Raises UserError for another name."""
    from sklearn.metrics import accuracy_score, f1_score  # slow to import, and not every verb measures

    match name:
        case "accuracy":
            return float(accuracy_score(gold, predicted))
        case "macro_f1":
            return float(f1_score(gold, predicted, average="macro", labels=sorted(set(gold))))
    raise UserError(f"metric {name}: unknown; one of accuracy, macro_f1")


@dataclass(frozen=True)
class Prediction:
    """What one prompt says of one row."""

    label: str
    """The label word; in free generation whatever was written."""
    probabilities: dict[str, float] | None
    """Of the label words; None in free generation."""


def to_prediction(row: Sequence[float], words: Sequence[str]) -> Prediction:
    """The likeliest word and all probabilities."""
    probabilities = dict(zip(words, row, strict=True))
    return Prediction(max(probabilities, key=lambda word: probabilities[word]), probabilities)


class _Batch(NamedTuple):
    indices: list[int]
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    injection: Injection | None


def _batches(
    backbone: Backbone,
    inputs: Sequence[Sequence[int]],
    injection: Injection | None,
    rows: Sequence[int] | None,
    largest: int | None = None,
) -> Iterator[_Batch]:
    """Inputs in batches of like length, with the prompt of each."""
    if injection is not None:
        injection = injection.to(backbone.device, backbone.dtype)
    extra = 0 if injection is None else injection.encoder_length
    for batch in by_length([len(item) + extra for item in inputs], TOKEN_BUDGET, largest):
        ids, mask = backbone.pad([inputs[index] for index in batch])
        worn = torch.tensor([0 if rows is None else rows[index] for index in batch], device=backbone.device)
        yield _Batch(batch, ids, mask, None if injection is None else injection.on(worn))

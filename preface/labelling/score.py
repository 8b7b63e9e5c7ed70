"""From a frozen model and an injection to predictions: rank classification, and free generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from preface.backbones.batching import by_length
from preface.backbones.contexts import Inputs
from preface.backbones.frozen import log_total
from preface.backbones.t5 import Backbone, EncoderStates
from preface.errors import UserError
from preface.prompts import Injection

TOKEN_BUDGET = 2_048
"""Encoder tokens, padding, input embeddings and prefix included, in one evaluation batch of a CPU: what its caches
hold, and little padding."""
GPU_TOKEN_BUDGET = 16_384
"""The same on a GPU, which needs many rows to be busy."""


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

    def targets(self, labels: Iterable[str]) -> list[list[int]]:
        """The pieces that a prompt is trained to say for each label."""
        pieces = dict(zip(self.words, map(list, self.pieces), strict=True))
        return [pieces[label] for label in labels]

    @cached_property
    def tree(self) -> Tree:
        """The words as one tree: what two words have in common at their beginning stands there once."""
        return Tree.of(self.pieces)


@dataclass(frozen=True)
class Tree:
    """Label words packed into one decoder input of S places: a place sees those that lead to it, and no others."""

    parents: tuple[int, ...]
    """The place before each; −1 at the first, whose input is the start token."""
    inputs: tuple[int, ...]
    """The piece that each place reads; −1 at the first."""
    steps: tuple[tuple[int, int, int], ...]
    """(place, piece, label): the label's word goes on with the piece after that place."""

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> Tree:
        places: dict[tuple[int, ...], int] = {(): 0}  # by the pieces that lead there
        parents, inputs, steps = [-1], [-1], []
        for label, pieces in enumerate(words):
            for length, piece in enumerate(pieces):
                place = places[tuple(pieces[:length])]
                steps.append((place, piece, label))
                after = tuple(pieces[: length + 1])
                if length + 1 < len(pieces) and after not in places:  # nothing follows the last piece
                    places[after] = len(parents)
                    parents.append(place)
                    inputs.append(piece)
        return cls(tuple(parents), tuple(inputs), tuple(steps))

    @cached_property
    def positions(self) -> Tensor:
        """How far each place is from the start, `[S]`."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return torch.tensor(depths)

    @cached_property
    def mask(self) -> Tensor:
        """`[1, 1, S, S]`: a place sees itself and those that lead to it."""
        seen = torch.eye(len(self.parents), dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen[None, None]


def rank(backbone: Backbone, states: EncoderStates, labels: LabelWords, injection: Injection | None) -> Tensor:
    """Log-probabilities `[B, C]` of each label's words, `</s>` included.

    All words lie in one decoder input, hidden from each other by the mask. T5 knows only distances between positions,
    so each is scored as if it stood alone, and the encoder states are shared by all.
    """
    device, size, tree = backbone.device, len(states.hidden), labels.tree
    start = backbone.model.config.decoder_start_token_id
    decoder_input = torch.tensor([start, *tree.inputs[1:]], device=device)  # [S]
    hidden = backbone.decoder_states(
        states,
        decoder_input.expand(size, -1),
        injection,
        decoder_mask=tree.mask.to(device).expand(size, 1, -1, -1),
        query_positions=tree.positions.to(device),
    )  # [B, S, d]
    places, pieces, owners = torch.tensor(tree.steps, device=device).unbind(1)  # each [steps]
    head = backbone.model.lm_head
    totals = log_total(hidden.flatten(0, 1), head).view(size, -1)  # [B, S]
    # the label's own logits in float32: rounded to bfloat16, different labels would tie
    chosen = (hidden[:, places].float() * head.weight[pieces].float()).sum(-1)  # [B, steps]
    return totals.new_zeros(size, len(labels.words)).index_add_(1, owners, chosen - totals[:, places])


@torch.inference_mode()
def score(
    backbone: Backbone,
    inputs: Inputs | Sequence[Sequence[int]],
    labels: LabelWords,
    injection: Injection | None = None,
    rows: Sequence[int] | None = None,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Log-probabilities `[N, C]` of the label words for N tokenised inputs, in their order, on the CPU.

    `rows` names each input's prompt (default: the first); `on_batch` hears how many inputs were done.
    """
    batches = _batches(Inputs.of(backbone, inputs), injection, rows)
    return _score(backbone, batches, len(inputs), labels, on_batch)


@torch.inference_mode()
def score_each(
    backbone: Backbone,
    inputs: Inputs | Sequence[Sequence[int]],
    labels: LabelWords,
    injection: Injection,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Log-probabilities `[P, N, C]`: every input under every prompt of `injection`, all in the same batches."""
    inputs, prompts = Inputs.of(backbone, inputs), injection.size
    batches = _batches_of_each(inputs, injection)
    return _score(backbone, batches, prompts * len(inputs), labels, on_batch).unflatten(0, (prompts, -1))


def _score(
    backbone: Backbone, batches: Iterable[_Batch], size: int, labels: LabelWords, on_batch: Callable[[int], None]
) -> Tensor:
    output = torch.empty(size, len(labels.words))
    for inputs, places, injection in batches:
        output[places] = rank(backbone, inputs.states(places, injection), labels, injection).cpu()
        on_batch(len(places))
    return output


@torch.inference_mode()
def generate(
    backbone: Backbone,
    inputs: Inputs | Sequence[Sequence[int]],
    injection: Injection | None = None,
    rows: Sequence[int] | None = None,
    max_new_tokens: int = 16,
    num_beams: int = 1,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """The text that the model writes freely for each tokenised input."""
    output = [""] * len(inputs)
    for these, places, injection_worn in _batches(Inputs.of(backbone, inputs), injection, rows):
        tokens = backbone.generate(
            *these.padded(places), injection_worn, max_new_tokens=max_new_tokens, num_beams=num_beams
        )
        texts = backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            output[place] = text.strip()
        on_batch(len(places))
    return output


def metric(name: str, gold: Sequence[str], predicted: Sequence[str]) -> float:
    """`accuracy` or `macro_f1`. Raises UserError for another name.

    As scikit-learn computes them, which takes two seconds to import: a fourth of the time to a training's first step.
    """
    right = Counter(label for label, said in zip(gold, predicted, strict=True) if label == said)
    there, said = Counter(gold), Counter(predicted)
    match name:
        case "accuracy":
            return right.total() / len(gold)
        case "macro_f1":
            return fmean(2 * right[label] / (there[label] + said[label]) for label in there)
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


_Batch = tuple[Inputs, list[int], Injection | None]
"""Inputs, the places of a batch's rows among them, and what the rows wear."""


def _budget(backbone: Backbone) -> int:
    return TOKEN_BUDGET if backbone.device.type == "cpu" else GPU_TOKEN_BUDGET


def _batches(inputs: Inputs, injection: Injection | None, rows: Sequence[int] | None) -> Iterator[_Batch]:
    """Inputs in batches of like length, each under its own prompt."""
    if injection is not None:
        injection = injection.to(inputs.backbone.device, inputs.backbone.dtype)
        if rows is None or injection.size == 1:
            injection, rows = injection.members([0]), None  # one prompt, worn by every row
    extra = 0 if injection is None else injection.encoder_length
    for places in by_length([length + extra for length in inputs.lengths], _budget(inputs.backbone)):
        worn = injection
        if injection is not None and rows is not None:
            worn = injection.on(torch.tensor([rows[place] for place in places], device=inputs.backbone.device))
        yield inputs, places, worn


def _batches_of_each(inputs: Inputs, injection: Injection) -> Iterator[_Batch]:
    """The same inputs under each prompt side by side, so that no prompt is copied for its rows."""
    injection, prompts = injection.to(inputs.backbone.device, inputs.backbone.dtype), injection.size
    every = inputs.repeated(prompts)
    lengths = [length + injection.encoder_length for length in inputs.lengths]
    for places in by_length(lengths, max(1, _budget(inputs.backbone) // prompts)):
        yield every, [prompt * len(inputs) + place for prompt in range(prompts) for place in places], injection

"""Train a tokenizer of T5's kind: SentencePiece's unigram model, with T5's special tokens where T5 has them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import TokenizersBackend

from preface.errors import UserError
from preface.tasks.lines import brief

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
"""They have the ids 0, 1 and 2."""
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
"""The last id is the first sentinel's, the one before it the second's, and so on."""
FEWEST = 256
"""Pieces besides the special tokens: with fewer, hardly the letters have room."""
SMALLEST = 3 + len(SENTINELS) + FEWEST
"""A vocabulary with these and all special tokens."""
LONGEST = 1 << 24
"""Bytes of a text; SentencePiece leaves longer ones out."""
COVERAGE = 0.99999
"""The share of all characters that get a piece; the rarest beyond it are unknown."""


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> TokenizersBackend:
    """A tokenizer of exactly `vocabulary` pieces, special tokens among them, that appends `</s>` to a text.

    The same texts give the same tokenizer. Raises UserError if the vocabulary is too small, or the texts do
    not have so many pieces.
    """
    if vocabulary < SMALLEST:
        raise UserError(f"a vocabulary of {vocabulary:,} is too small; give {SMALLEST:,} or more")
    model = _trained(texts, vocabulary - len(SENTINELS))
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    pieces += [(sentinel, 0.0) for sentinel in reversed(SENTINELS)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=list(SENTINELS),
        clean_up_tokenization_spaces=False,
    )


def _trained(texts: Iterator[str], size: int) -> Any:
    """The model as a protobuf message. SentencePiece trains it, for `tokenizers` gives other scores each time."""
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts,
            model_writer=written,
            model_type="unigram",
            vocab_size=size,
            pad_id=0,
            pad_piece=PAD,
            eos_id=1,
            eos_piece=EOS,
            unk_id=2,
            unk_piece=UNKNOWN,
            bos_id=-1,
            character_coverage=COVERAGE,
            num_threads=1,
            max_sentence_length=LONGEST,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"the text does not fill a vocabulary of {size + len(SENTINELS):,}{_advice(error)}") from error
    return sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())  # type: ignore[attr-defined]


def _advice(error: RuntimeError) -> str:
    """What would do where SentencePiece finds too few pieces in the text."""
    found = re.search(r"value <= (\d+)", str(error))
    most = int(found[1]) + len(SENTINELS) if found else None
    if most is not None and most < SMALLEST:
        return "; give more text"
    return f" ({brief(error) if most is None else f'{most:,} or less'}); give more text or another size"

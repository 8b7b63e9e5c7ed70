"""A corpus as two files of token ids, train and validation, without evaluation texts and repeated documents."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from preface.backbones.load import checkpoint_path
from preface.errors import UserError
from preface.pretraining.corpus import Document, identity, iter_documents
from preface.pretraining.keep_out import KeepOut
from preface.pretraining.tokenizer import train_tokenizer
from preface.records.atomic import write_atomically, written_by_others
from preface.records.lock import locked
from preface.records.results import installed_versions
from preface.tasks.lines import brief
from preface.tasks.split import folded
from preface.terminal.progress import progress

PIECE = re.compile(r"\S+(?:\s+\S+){0,999}")
"""Longer documents are cut into pieces of 1,000 words, each a document of its own from then on."""
SAMPLE = 20_000_000
"""Characters that a tokenizer is trained on, about."""
MOST_HELD_OUT = 0.05
"""The share of documents that validation takes at most."""
CHARACTERS_PER_TOKEN = 4
"""A guess that only decides how many documents validation gets."""
BATCH = 512
"""Documents tokenised, and then written, together."""
SECONDS = 5.0
"""Between two records of the progress: what a kill costs at most."""
WIDE = 1 << 16
"""A vocabulary from which on ids take four bytes."""
SPLITS = ("train", "validation")
DROPPED = "dropped.jsonl"
FILES = (*(f"{split}.bin" for split in SPLITS), DROPPED)


@dataclass(frozen=True)
class Tokens:
    """A finished folder of tokens. Each document's ids are followed by that of `</s>`."""

    folder: Path
    train: np.ndarray
    """One dimension, read only, mapped from the file."""
    validation: np.ndarray
    card: dict[str, Any]
    """The configuration, and what came of it, as in `tokens.json`."""

    @classmethod
    def open(cls, folder: str | Path) -> Tokens:
        """Raises UserError if the folder holds no tokens, is not finished or damaged."""
        folder = Path(folder)
        path = folder / "tokens.json"
        if not path.is_file():
            wrong = "is not finished; run the same command again" if _progress(folder).is_file() else "holds no tokens"
            raise UserError(f"{folder}: {wrong} (there is no tokens.json)")
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            card.setdefault("config", card.get("asked", {}))  # as earlier versions called it
            arrays = [_mapped(folder / f"{split}.bin", card["dtype"], card["tokens"][split]) for split in SPLITS]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{folder}: is damaged ({brief(error)}); delete the folder and make it again") from error
        return cls(folder, arrays[0], arrays[1], card)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the ids are of."""
        return _load_tokenizer(self.folder / "tokenizer")


@dataclass
class _State:
    """How far the work has come: all that is needed to go on after a kill."""

    config: dict[str, Any]
    keep_out: str
    """The fingerprint of what is kept out."""
    documents: list[int]
    """Of each source."""
    characters: int
    read: int = 0
    """Documents of the corpus that are done with."""
    kept: Counter[str] = field(default_factory=Counter)
    """Documents written, by split; pieces count."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Documents kept out, by task; pieces count."""
    duplicates: int = 0
    bytes: Counter[str] = field(default_factory=Counter)
    """Of each file written, by its name."""

    @classmethod
    def load(cls, path: Path) -> _State:
        try:
            state = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({brief(error)}); delete the folder and begin again") from error
        for each in fields(cls):
            if each.default_factory is Counter:
                setattr(state, each.name, Counter(getattr(state, each.name)))
        return state

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(vars(self), indent=1) + "\n")


def tokenize(
    text: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocabulary: int = 16384,
    field: str = "text",
    keep_out: Sequence[str] = (),
    data: str | Path | None = None,
    held_out: int = 200_000,
) -> Tokens:
    """Write the tokens of a corpus into the folder `out`, or go on where an earlier call was stopped.

    Args:
        text: the sources, as `iter_documents` takes them; `field` is the field of a row that holds the text.
        tokenizer: a folder, a name on the hub, or `nano`; by default one of `vocabulary` pieces is trained on a
            sample of the text.
        keep_out: tasks whose validation and test inputs may not be in the corpus: documents that hold one are
            dropped, and listed in `out/dropped.jsonl`. `data` is the folder of the tasks' files.
        held_out: about so many tokens are for validation, but at most a twentieth of all documents.

    Raises UserError for a source, tokenizer or task that cannot be read, a corpus without text, a vocabulary
    that the text does not fill, a folder that holds the tokens of another configuration, and one in which another
    process is at work.
    """
    out = Path(out)
    config: dict[str, Any] = {
        "sources": [identity(source) for source in text],
        "field": field,
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "vocabulary": vocabulary if tokenizer is None else None,
        "keep_out": list(keep_out),
        "held_out": held_out,
    }
    kept_out = KeepOut.of(keep_out, data)
    with _alone_in(out):
        return _finished(out, config, kept_out) or _made(out, config, kept_out, text, tokenizer)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """`locked`, with a line of its own where nothing can be written."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
        yield


def _finished(out: Path, config: dict[str, Any], keep_out: KeepOut) -> Tokens | None:
    """What an earlier call has made in this folder, if it came to the end."""
    if not (out / "tokens.json").is_file():
        return None
    tokens = Tokens.open(out)
    # where an earlier version wrote no fingerprint there is nothing to compare, and the tokens are taken as they are
    fingerprint = tokens.card.get("kept_out_fingerprint", keep_out.fingerprint)
    _same(out, tokens.card["config"], config, fingerprint, keep_out)
    return tokens


def _made(
    out: Path, config: dict[str, Any], kept_out: KeepOut, text: Sequence[str | Path], tokenizer: str | Path | None
) -> Tokens:
    """Write what is not there yet, all of it or what an earlier call has left."""
    state = _begun(out, config, kept_out) or _new(out, config, kept_out, text, tokenizer)
    ids_of = _load_tokenizer(out / "tokenizer")
    dtype = np.dtype("<u2" if len(ids_of) < WIDE else "<u4")
    _write(out, state, kept_out, iter_documents(text, config["field"]), ids_of, dtype)
    card = {
        "config": config,
        "sources": [{**each, "documents": n} for each, n in zip(config["sources"], state.documents, strict=True)],
        "characters": state.characters,
        "documents": state.kept,
        "tokens": {split: state.bytes[f"{split}.bin"] // dtype.itemsize for split in SPLITS},
        "dropped": state.dropped,
        "duplicates": state.duplicates,
        "kept_out_fingerprint": kept_out.fingerprint,
        "kept_out_inputs": kept_out.inputs,
        "dtype": dtype.str,
        "vocabulary": len(ids_of),
        "versions": installed_versions(),
        "sha256": identity(out / "train.bin")["sha256"],
    }
    write_atomically(out / "tokens.json", json.dumps(card, indent=1) + "\n")
    _progress(out).unlink()
    return Tokens.open(out)


def _begun(out: Path, config: dict[str, Any], keep_out: KeepOut) -> _State | None:
    """The state of an earlier call, if one was stopped in this folder."""
    path = _progress(out)
    if not path.is_file():
        return None
    state = _State.load(path)
    _same(out, state.config, config, state.keep_out, keep_out)
    return state


def _same(out: Path, then: dict[str, Any], now: dict[str, Any], fingerprint: str, keep_out: KeepOut) -> None:
    """Raise UserError unless the folder was begun with what is given now: the configuration, and what is kept out."""
    for name, value in now.items():
        if then.get(name) != value:
            raise UserError(
                f"{out}: holds the tokens of another configuration: {name} was {brief(then.get(name))}, "
                f"now it is {brief(value)}; give another --out"
            )
    if fingerprint != keep_out.fingerprint:
        raise UserError(f"{out}: was begun with other texts of {', '.join(now['keep_out'])}; give another --out")


def _new(
    out: Path,
    config: dict[str, Any],
    keep_out: KeepOut,
    text: Sequence[str | Path],
    tokenizer: str | Path | None,
) -> _State:
    """Count the corpus, put the tokenizer into the folder, and record that the work has begun."""
    documents, characters = [], 0
    with progress("counting documents", None, "documents") as advance:
        for source in text:
            documents.append(0)
            for document in iter_documents([source], config["field"]):
                documents[-1] += 1
                characters += len(document.text)
                advance()
    if not characters:
        raise UserError("the corpus has no text; give at least one source with a document")
    if tokenizer is None:
        share = SAMPLE / characters
        sample = (d for d in iter_documents(text, config["field"]) if _drawn(d.text, "tokenizer", share))
        pieces = (piece for document in sample for piece, drop in _pieces(document, keep_out) if drop is None)
        trained: PreTrainedTokenizerBase = train_tokenizer((piece.text for piece in pieces), config["vocabulary"])
    else:
        trained = _load_tokenizer(tokenizer)
    with written_by_others(out):
        trained.save_pretrained(out / "tokenizer")
    state = _State(config, keep_out.fingerprint, documents, characters)
    state.save(_progress(out))
    return state


def _write(
    out: Path,
    state: _State,
    keep_out: KeepOut,
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerBase,
    dtype: np.dtype,
) -> None:
    """Write what is left to do of the corpus; `state` comes with it."""
    share = min(MOST_HELD_OUT, state.config["held_out"] / (state.characters / CHARACTERS_PER_TOKEN))
    # a set of digests, not of texts: 16 bytes each, and made again from the corpus where the work goes on
    seen = {_digest(document.text) for document in islice(documents, state.read)}
    total = sum(state.documents)
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open_at(out / name, state.bytes[name])) for name in FILES}
        advance = stack.enter_context(progress("tokenising", total, "documents", state.read))
        saved = time.monotonic()
        for batch in _batches(documents):
            pieces: list[Document] = []
            for document in batch:
                digest = _digest(document.text)
                if digest in seen:
                    state.duplicates += 1
                    continue
                seen.add(digest)
                for piece, drop in _pieces(document, keep_out):
                    if drop is None:
                        pieces.append(piece)
                    else:
                        state.dropped[drop["task"]] += 1
                        files[DROPPED].write((json.dumps(drop, ensure_ascii=False) + "\n").encode())
            for piece, ids in zip(pieces, _encode(tokenizer, pieces), strict=True):
                split = "validation" if _drawn(piece.text, "validation", share) else "train"
                files[f"{split}.bin"].write(np.array([*ids, tokenizer.eos_token_id], dtype).tobytes())
                state.kept[split] += 1
            state.read += len(batch)
            advance(len(batch), note=f"{state.dropped.total():,} dropped, {state.duplicates:,} duplicates")
            if time.monotonic() - saved >= SECONDS or state.read == total:
                _record(out, state, files)
                saved = time.monotonic()


def _record(out: Path, state: _State, files: dict[str, BinaryIO]) -> None:
    for name, file in files.items():
        file.flush()
        os.fsync(file.fileno())
        state.bytes[name] = file.tell()
    state.save(_progress(out))


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Whole documents, together about BATCH pieces or more."""
    batch: list[Document] = []
    pieces = 0
    for document in documents:
        batch.append(document)
        pieces += 1 + document.text.count(" ") // 1000
        if pieces >= BATCH:
            yield batch
            batch, pieces = [], 0
    if batch:
        yield batch


def _pieces(document: Document, keep_out: KeepOut) -> Iterator[tuple[Document, dict[str, str] | None]]:
    """The pieces of a document; with those that may not be in the corpus, the line that says why.

    The whole document is searched, so that an input is found also where a cut goes through it.
    """
    matches = keep_out.find(document.text)
    cuts = list(PIECE.finditer(document.text))
    for number, cut in enumerate(cuts, 1):
        place = document.place if len(cuts) == 1 else f"{document.place} piece {number}"
        match = next((match for match in matches if match.start < cut.end() and match.end > cut.start()), None)
        drop = None if match is None else {"place": place, "task": match.task, "words": match.words}
        yield Document(cut.group(), place), drop


def _encode(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Document]) -> Iterable[list[int]]:
    """The ids of each text, without `</s>`; a special token's name in a text is left out, else it would be one."""
    if not pieces:
        return []
    special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
    texts = [special.sub(" ", piece.text) for piece in pieces]
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(folded(text).encode(), digest_size=16).digest()


def _drawn(text: str, purpose: str, share: float) -> bool:
    """Whether the text is among the `share` drawn for a purpose: its hash decides, so the order does not matter."""
    digest = hashlib.blake2b(folded(text).encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer {name}: cannot be loaded ({brief(error)}); give a folder or a name on the Hugging Face hub"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {name}: has no token for the end of a text; give another")
    return tokenizer


def _open_at(path: Path, size: int) -> BinaryIO:
    """A file of the first `size` bytes that there are, to be written on."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _mapped(path: Path, dtype: str, count: int) -> np.ndarray:
    size = count * np.dtype(dtype).itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, not {size:,}")
    return np.memmap(path, dtype, mode="r") if count else np.zeros(0, dtype)


def _progress(out: Path) -> Path:
    return out / "progress.json"

"""How texts, cues and answers are written in a model's pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from preface.backbones import families
from preface.errors import UserError
from preface.tasks.example import literal
from preface.tasks.task import CHAT, SENTINEL

NEWLINE = "\n"
MARK = "{the text}"
"""Where a text goes in a chat template."""
FIRST_SENTINEL = "<extra_id_0>"
LONGEST_ANSWER = 64
"""Pieces of an answer beyond which it is cut."""


class Pieces(ABC):
    """A tokenizer, and what a kind of model reads before an answer and after it."""

    def __init__(self, name: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """`name`: the model's, for messages; `config`: its configuration."""
        self.name, self.config, self.tokenizer = name, config, tokenizer

    @property
    def begin(self) -> tuple[int, ...]:
        """The piece that every text begins with, if there is one."""
        return ()

    @property
    def end(self) -> int:
        """The piece that ends an answer."""
        ends = self.config.eos_token_id
        end: int = ends[0] if isinstance(ends, list) else ends
        return end

    @abstractmethod
    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        """The pieces of texts to be read, and of each whether it was cut to `max_tokens`."""

    @abstractmethod
    def question(self, template: str, cue: str) -> str:
        """The template of what is read, where `cue` stands between a text and its answer (`Task.cue`).

        Raises UserError where the cue asks for a chat template that the model has not.
        """

    @abstractmethod
    def lead_in(self, cue: str) -> tuple[int, ...]:
        """The pieces that an answer begins after."""

    @abstractmethod
    def answer_pieces(self, answers: Sequence[str], cue: str, ended: bool = False) -> list[list[int]]:
        """The pieces of answers after a cue. Where they are label words, they may be told apart without what ends an
        answer; `ended`: each has it."""

    @abstractmethod
    def continued(self, text: str) -> tuple[list[int], tuple[int, ...]]:
        """What is read of a text that the bare model goes on from, and the pieces that it goes on after."""

    def _pieces(self, text: str) -> list[int]:
        pieces: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return pieces

    def _each(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        pieces: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return pieces


class T5Pieces(Pieces):
    """Of encoder-decoder models: the decoder begins an answer of its own."""

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        """Each text is ended by `</s>`, cut or not."""
        ids = self._each(texts)
        return [[*item[: max_tokens - 1], self.end] for item in ids], [len(item) > max_tokens - 1 for item in ids]

    def question(self, template: str, cue: str) -> str:
        """T5 needs no cue."""
        if cue == CHAT:
            raise UserError(f"template chat: {self.name} has no chat template")
        return template

    def lead_in(self, cue: str) -> tuple[int, ...]:
        start = (self.config.decoder_start_token_id,)
        return (*start, self._sentinel()) if cue == SENTINEL else start

    def continued(self, text: str) -> tuple[list[int], tuple[int, ...]]:
        """T5's encoder reads all of it."""
        return [*self._pieces(text), self.end], self.lead_in("")

    def _sentinel(self) -> int:
        sentinel = int(self.tokenizer.convert_tokens_to_ids(FIRST_SENTINEL) or 0)  # type: ignore[arg-type]
        if sentinel in (0, self.tokenizer.unk_token_id):
            raise UserError(f"cue sentinel: the tokenizer of {self.name} has no {FIRST_SENTINEL}")
        return sentinel

    def answer_pieces(self, answers: Sequence[str], cue: str, ended: bool = False) -> list[list[int]]:
        """Each is ended by `</s>`, label words too."""
        return self.tokenize(answers, LONGEST_ANSWER)[0]


class CausalPieces(Pieces):
    """Of decoder-only models: text, cue and answer are one text."""

    @property
    def begin(self) -> tuple[int, ...]:
        """The piece that every text begins with, if the tokenizer has one."""
        first = self.tokenizer("a")["input_ids"][:1]
        return tuple(first) if first == [self.tokenizer.bos_token_id] else ()

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        begin = self.begin
        every = [[*begin, *item] for item in self._each(texts)]
        return [item[:max_tokens] for item in every], [len(item) > max_tokens for item in every]

    def question(self, template: str, cue: str) -> str:
        """The cue is read with the text, but for its last piece: so an answer costs one piece less than its words."""
        before, cue = self._around(cue)
        read = str(self.tokenizer.decode(self._pieces(cue)[:-1]))
        return f"{literal(before)}{template}{'' if before else NEWLINE}{literal(read)}".removesuffix(NEWLINE)

    def lead_in(self, cue: str) -> tuple[int, ...]:
        """The cue's last piece, which a prompt of the `answer` site is first seen by; of a cue of one piece the line
        before it too, which no text can end with."""
        _, cue = self._around(cue)
        pieces = self._pieces(cue)
        return tuple(pieces[-1:] if len(pieces) > 1 else self._pieces(NEWLINE + cue))

    def answer_pieces(self, answers: Sequence[str], cue: str, ended: bool = False) -> list[list[int]]:
        """The words go on from the cue, after a space unless a line has ended. Label words are ended only where one is
        the beginning of another: what follows a word is then part of what is asked."""
        _, cue = self._around(cue)
        space = "" if cue.endswith(NEWLINE) else " "
        known = self._pieces(cue)
        pieces = []
        for answer in answers:
            together = self._pieces(cue + space + answer)
            goes_on = together[: len(known)] == known
            pieces.append((together[len(known) :] if goes_on else self._pieces(space + answer))[:LONGEST_ANSWER])
        if not ended:  # a comparison of every two: for some label words, not for thousands of answers
            ended = any(a is not b and b[: len(a)] == a for a in pieces for b in pieces)
        return [[*item, self.end] for item in pieces] if ended else pieces

    def continued(self, text: str) -> tuple[list[int], tuple[int, ...]]:
        """All but the last piece; of a text of one piece the end of another text."""
        ids = [*self.begin, *self._pieces(text)]
        return ids[:-1] or [self.end], tuple(ids[-1:])

    def _around(self, cue: str) -> tuple[str, str]:
        """What stands before a text and after it, where `cue` may ask for the model's own chat template."""
        if cue == SENTINEL:
            raise UserError(f"cue sentinel: is for the T5 family, and {self.name} goes on writing; give a cue in words")
        if cue != CHAT:
            return "", cue
        if self.tokenizer.chat_template is None:
            raise UserError(f"template chat: the tokenizer of {self.name} has no chat template")
        message = [{"role": "user", "content": MARK}]
        whole = str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        before, after = whole.removeprefix(str(self.tokenizer.bos_token) if self.begin else "").split(MARK)
        return before, after


def pieces_of(name: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """The pieces of a model that is no backbone (yet)."""
    kind = CausalPieces if config.model_type in families.FAMILIES else T5Pieces
    return kind(name, config, tokenizer)

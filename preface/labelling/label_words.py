"""The words that stand for labels, in a backbone's pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from preface.backbones.base import Backbone
from preface.backbones.tree import Tree
from preface.errors import UserError
from preface.tasks.task import CUE


@dataclass(frozen=True)
class LabelWords:
    """The words that stand for the labels, and their pieces, ended as the backbone ends an answer."""

    words: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]
    lead_in: tuple[int, ...]
    """The pieces that every answer begins after."""

    @classmethod
    def of(cls, backbone: Backbone, words: Sequence[str], cue: str = CUE) -> LabelWords:
        """Tokenise label words that follow a task's cue.

        Raises:
            UserError: fewer than two words, a word that the vocabulary cannot spell, or two words with the same pieces.
        """
        if len(set(words)) < 2:
            raise UserError(f"labels: at least two different label words are needed, got {', '.join(words) or 'none'}")
        unknown = backbone.tokenizer.unk_token_id
        pieces = backbone.answer_pieces(words, cue)
        seen: dict[tuple[int, ...], str] = {}
        for word, ids in zip(words, map(tuple, pieces), strict=True):
            if unknown in ids or not set(ids) - {backbone.tokenizer.eos_token_id}:
                raise UserError(
                    f"label word {word!r} does not fit the vocabulary of {backbone.name}; "
                    "give another word with --label-words"
                )
            if ids in seen:
                raise UserError(f"label words {seen[ids]!r} and {word!r} are the same pieces for {backbone.name}")
            seen[ids] = word
        return cls(tuple(words), tuple(seen), backbone.lead_in(cue))

    def targets(self, labels: Iterable[str]) -> list[list[int]]:
        """The pieces that a prompt is trained to answer for each label."""
        pieces = dict(zip(self.words, map(list, self.pieces), strict=True))
        return [pieces[label] for label in labels]

    @cached_property
    def tree(self) -> Tree:
        """The words as one tree."""
        return Tree.of(self.pieces, self.lead_in)

"""The words that stand for labels, in a backbone's pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.tasks.task import CUE


@dataclass(frozen=True)
class LabelWords:
    """The words that stand for the labels, and their pieces, ended as the backbone ends an answer."""

    words: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]
    lead_in: tuple[int, ...]
    """The pieces that every answer begins after."""
    ended: bool = True
    """Whether the pieces of a word include the one that ends an answer."""

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
            if unknown in ids or not set(ids) - {backbone.end}:
                raise UserError(
                    f"label word {word!r} does not fit the vocabulary of {backbone.name}; "
                    "give another word with --label-words"
                )
            if ids in seen:
                raise UserError(f"label words {seen[ids]!r} and {word!r} are the same pieces for {backbone.name}")
            seen[ids] = word
        ended = all(ids[-1] == backbone.end for ids in seen)
        return cls(tuple(words), tuple(seen), backbone.lead_in(cue), ended)

    def targets(self, labels: Iterable[str]) -> list[list[int]]:
        """The pieces that a prompt is trained to answer for each label."""
        pieces = dict(zip(self.words, map(list, self.pieces), strict=True))
        return [pieces[label] for label in labels]

    def gold(self, labels: Iterable[str]) -> Tensor:
        """The place of each row's label among the words, `[N]`."""
        places = {word: place for place, word in enumerate(self.words)}
        return torch.tensor([places[label] for label in labels])

    def as_vectors(self) -> LabelWords:
        """The same for prompts with a vector for each label: its number stands in the place of its pieces."""
        return replace(self, pieces=tuple((place,) for place in range(len(self.words))), ended=True)

    def called(self, names: Mapping[str, str]) -> LabelWords:
        """The same pieces under other names, `{word: name}`."""
        return replace(self, words=tuple(names[word] for word in self.words))

    def word_of(self, written: str) -> str:
        """The label word that a written text is: all of it, or, where a backbone has not learned to end its answer, the
        longest that its first line begins with. Any other text stays as it is."""
        if self.ended:
            return written
        line = written.split("\n")[0]
        begun = [word for word in self.words if re.match(rf"{re.escape(word)}(?!\w)", line)]
        return max(begun, key=len, default=line)

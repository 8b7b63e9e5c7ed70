"""Examples keep their fields; a template makes their text, and what is too long is cut in its long fields."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from string import Formatter
from typing import Any

from preface.errors import UserError

Tokenize = Callable[[Sequence[str], int], tuple[list[list[int]], list[bool]]]
"""From texts and a number of tokens to the ids of each, cut to the number, and whether it was cut."""


@dataclass(frozen=True)
class Template:
    """Literal text and fields in turn."""

    pieces: tuple[tuple[str, str | None], ...]
    """Literal text and the name of the field after it; None: no field."""

    @classmethod
    def parse(cls, source: str) -> Template:
        """Read `{premise} … {hypothesis}`; raises ValueError, in one line, if it is broken or names no field."""
        pieces = []
        try:
            for literal, name, spec, conversion in Formatter().parse(source.strip()):
                if name == "" or spec or conversion:
                    raise ValueError("template takes plain field names in braces, such as {text}; write {{ for a brace")
                pieces.append((literal, name))
        except ValueError as error:
            raise ValueError(f"template {source!r}: {error}") from error
        if all(name is None for _, name in pieces):
            raise ValueError("template names no field; {text} stands for the input")
        return cls(tuple(pieces))

    @classmethod
    def of(cls, source: str) -> Template:
        """As `parse`, for templates that are not of a task's definition: raises UserError."""
        try:
            return cls.parse(source)
        except ValueError as error:
            raise UserError(str(error)) from error

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields that it names, each once."""
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None))

    @cached_property
    def is_one_field(self) -> bool:
        """Whether it is one field and nothing else."""
        return len(self.pieces) == 1 and self.pieces[0][0] == ""

    def render(self, fields: Mapping[str, str]) -> str:
        """The text, without white space around it."""
        if self.is_one_field:
            return fields[self.names[0]].strip()
        return "".join([literal + (fields[name] if name else "") for literal, name in self.pieces]).strip()

    def over(self, template: Template) -> Template:
        """This with the fields of a task's `template`, for whose whole text `{text}` stands.

        Raises UserError if this names another field.
        """
        return _over(self, template)


@cache
def _over(outer: Template, inner: Template) -> Template:
    other = [name for name in outer.names if name not in ("text", *inner.names)]
    if other:
        have = ", ".join(f"{{{name}}}" for name in dict.fromkeys(("text", *inner.names)))
        raise UserError(f"template: there is no field {{{other[0]}}}; there are {have}")
    pieces: list[tuple[str, str | None]] = []
    for literal, name in outer.pieces:
        whole = ((literal, None), *inner.pieces) if name == "text" else ((literal, name),)
        pieces += [piece for piece in whole if piece != ("", None)]
    return Template(tuple(pieces))


def literal(text: str) -> str:
    """A text as a template writes it, its braces doubled."""
    return text.replace("{", "{{").replace("}", "}}")


ONE_TEXT = Template.parse("{text}")


@dataclass(frozen=True, slots=True)
class Example:
    """The fields of a row that its template names, and its label word; None if it is not labelled."""

    fields: Mapping[str, str]
    label: str | None
    template: Template = ONE_TEXT
    group: str = ""
    """What rows that belong together have in common; empty: it stands for itself."""
    answers: tuple[str, ...] = ()
    """Of a task with free text, all that are right; `label` is the first, which is trained on."""
    labels: frozenset[str] | None = None
    """Of a multi-label task, all label words that it has; `label` is these as one text."""

    @classmethod
    def of(cls, text: str, label: str | None = None) -> Example:
        """An example of one text."""
        return cls({"text": text}, label)

    @property
    def text(self) -> str:
        """The whole text."""
        return self.template.render(self.fields)

    @property
    def gold(self) -> str | tuple[str, ...] | None:
        """What is right, as files of predictions have it."""
        return self.answers or self.label


def worded(examples: Sequence[Example], wording: str) -> list[tuple[str, str]]:
    """The text of each example under a wording, which a prompt may begin from, and its label."""
    around = Template.of(wording)
    return [(around.render({"text": example.text}), str(example.label)) for example in examples]


def gold_of(examples: Sequence[Example]) -> list[Any]:
    """What is right for each example, as `preface.tasks.metric.metric` takes it: its label, its labels or answers."""
    return [example.answers or str(example.label) if example.labels is None else example.labels for example in examples]


def groups_of(examples: Sequence[Example]) -> list[str]:
    """What each example belongs to, as `preface.tasks.metric.metric` takes it; empty where each stands for itself."""
    return [example.group for example in examples] if any(example.group for example in examples) else []


def render(
    tokenize: Tokenize, examples: Sequence[Example], max_tokens: int, template: str = "{text}"
) -> tuple[list[list[int]], list[bool]]:
    """The token ids of each example's text, at most `max_tokens`, and whether it was cut.

    Too long a text is cut at the end of its longest field, or of several down to the same length: what the
    template says stays. `template` says more than a task's own does, such as an instruction; it may name the fields
    of that, and `{text}` stands for its whole text.

    Raises UserError if a template is broken, names a field that there is not, or is too long itself.
    """
    outer = Template.of(template)
    templates = [outer.over(example.template) for example in examples]
    texts = [each.render(example.fields) for each, example in zip(templates, examples, strict=True)]
    ids, cut = tokenize(texts, max_tokens)
    # of one field alone the first pieces stay, as a tokenizer cuts
    long = [i for i, too_long in enumerate(cut) if too_long and not templates[i].is_one_field]
    if long:
        cuts = [_Cut(templates[i], {name: examples[i].fields[name] for name in templates[i].names}) for i in long]
        for i, shortened in zip(long, _shortened(tokenize, cuts, max_tokens), strict=True):
            ids[i] = shortened
    return ids, cut


@dataclass
class _Cut:
    """The search for the number of characters that fields may have."""

    template: Template
    fields: Mapping[str, str]
    fits: int = 0
    ids: list[int] = field(default_factory=list)
    """The tokens of the text with fields of `fits` characters."""
    too_many: int = 0
    tokens: int = 0
    """How many tokens there are with fields of `too_many` characters."""

    def text(self, characters: int) -> str:
        return self.template.render({name: value[:characters].rstrip() for name, value in self.fields.items()})

    def guess(self, max_tokens: int, halve: bool) -> int:
        """A number between those known: by proportion, or, so that the search ends soon in any case, the middle."""
        width, known = self.too_many - self.fits, len(self.ids)
        step = width // 2 if halve else width * (max_tokens - known) // (self.tokens - known)
        return self.fits + min(max(step, 1), width - 1)


def _shortened(tokenize: Tokenize, cuts: Sequence[_Cut], max_tokens: int) -> list[list[int]]:
    def tokens(texts: list[str]) -> list[list[int]]:
        return tokenize(texts, sys.maxsize)[0]

    for cut in cuts:
        cut.too_many = max(map(len, cut.fields.values()))
    shortest, longest = tokens([cut.text(0) for cut in cuts]), tokens([cut.text(cut.too_many) for cut in cuts])
    for cut, none, whole in zip(cuts, shortest, longest, strict=True):
        cut.ids, cut.tokens = none, len(whole)
        if len(whole) <= max_tokens:  # all but white space at the end of a field
            cut.fits, cut.ids = cut.too_many, whole
        if len(none) > max_tokens:
            raise UserError(
                f"template: its own words take {len(none)} tokens, and an input may have {max_tokens}; shorten it, or "
                "give more --max-input-tokens"
            )
    turn = 0
    while searching := [cut for cut in cuts if cut.too_many - cut.fits > 1 and len(cut.ids) < max_tokens]:
        turn += 1
        guesses = [cut.guess(max_tokens, halve=turn % 3 == 0) for cut in searching]
        tried = tokens([cut.text(guess) for cut, guess in zip(searching, guesses, strict=True)])
        for cut, guess, ids in zip(searching, guesses, tried, strict=True):
            if len(ids) <= max_tokens:
                cut.fits, cut.ids = guess, ids
            else:
                cut.too_many, cut.tokens = guess, len(ids)
    return [cut.ids for cut in cuts]

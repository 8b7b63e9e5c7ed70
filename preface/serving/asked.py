"""What callers ask an engine, and what it answers."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from preface.labelling.multi_label import MultiLabel
from preface.serving.store import Served
from preface.serving.texts import Key


@dataclass(frozen=True)
class Answer:
    """What one prompt says of one text."""

    model: str
    label: str
    """Of a task with several labels a text: all of them, as one text."""
    labels: tuple[str, ...] | None
    """Those, where the task has several a text."""
    probabilities: dict[str, float]
    pieces: int
    """That were read of the text."""
    cut: bool
    """Whether it has more."""
    kept: bool
    """Whether it had been read before, under whatever prompt."""


@dataclass(frozen=True)
class Result:
    """The answers to a request."""

    answers: list[list[Answer]]
    """Of each text, in the order of the prompts."""
    waited: float
    """Seconds until its last text was taken up."""
    seconds: float
    """From the request to its last answer."""


@dataclass(frozen=True)
class Piece:
    """One piece of what is written."""

    text: str
    """What it adds to the text; empty while a character is not whole."""
    log_probability: float
    likeliest: dict[str, float]
    """Log-probabilities of the likeliest pieces there, if they were asked for."""


@dataclass(frozen=True)
class Written:
    """What a prompt, or the bare backbone, has written."""

    model: str
    text: str
    pieces: list[Piece]
    read: int
    """Pieces that were read of the text."""
    cut: bool
    finish: str
    """`stop`: it ended; `length`: it may be no longer."""


@dataclass(frozen=True)
class Style:
    """How an answer is written."""

    most: int = 16
    """Pieces, at most."""
    temperature: float = 0.0
    """0: always the likeliest piece."""
    top_p: float = 1.0
    """Only the likeliest pieces, which together have this probability."""
    stop: tuple[str, ...] = ()
    """Strings before which the text ends."""
    seed: int | None = None
    likeliest: int = 0
    """Of each place, the log-probabilities of so many pieces."""


@dataclass(eq=False)
class Request:
    """Some texts under some prompts, as one caller asks."""

    answers: list[list[Answer | None]]
    left: int
    """Questions that are not answered yet."""
    since: float = field(default_factory=time.perf_counter)
    taken: float = 0.0
    future: Future[Result] = field(default_factory=Future)

    def done(self, question: Question, answers: Sequence[Answer]) -> None:
        """One of its questions is answered; with the last, the whole is.

        Once for each: where another question of a batch fails, all are asked again.
        """
        if self.answers[question.text][question.places[0]] is not None:
            return
        for place, answer in zip(question.places, answers, strict=True):
            self.answers[question.text][place] = answer
        self.left -= 1
        if not self.left:
            whole = [[answer for answer in row if answer is not None] for row in self.answers]
            with suppress(InvalidStateError):  # nobody waits for it any more
                self.future.set_result(Result(whole, self.taken - self.since, time.perf_counter() - self.since))


@dataclass(eq=False)
class Item:
    """One text that has to be read."""

    caller: str
    ids: list[int]
    cut: bool
    keys: list[Key]
    """Of its context; or, under a prompt that changes the reading, of the context of each of its members."""

    future: Future[Any]
    """What whoever asked waits for."""

    @property
    def cancelled(self) -> bool:
        return self.future.cancelled()

    def failed(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # nobody waits for it any more
            self.future.set_exception(error)


ONE_OF_WORDS, SEVERAL_LABELS = 0, -1


def answered_as(served: Served) -> int:
    """The kind of a prompt's answers, one of which alone goes into a batch: so many label vectors, or one of these."""
    if served.prompts.labels is not None:
        return served.prompts.labels.shape[1]
    return SEVERAL_LABELS if isinstance(served.wanted, MultiLabel) else ONE_OF_WORDS


def keys_of(ids: Sequence[int], served: Served | None) -> list[Key]:
    """What a text's context is kept under."""
    pieces = array("l", ids).tobytes()
    if served is None or served.leaves_reading:
        return [(pieces, None, 0)]
    return [(pieces, served, member) for member in range(served.prompts.size)]


@dataclass(eq=False)
class Question(Item):
    """One text under prompts that read it alike."""

    request: Request
    text: int
    """Its number in the request."""
    places: list[int] = field(default_factory=list)
    """Those of its prompts in the request."""
    served: tuple[Served, ...] = ()
    kept: bool = False
    """Whether the text had been read."""

    @property
    def rows(self) -> int:
        """That answer it."""
        return sum(each.prompts.size for each in self.served)

    @property
    def shape(self) -> tuple[int, bool, int]:
        """What can be answered beside it: as many rows, as few contexts, and the same kind of answer."""
        return self.rows, len(self.keys) == 1, answered_as(self.served[0])


@dataclass(eq=False)
class Continuation(Item):
    """One text that a prompt, or the bare backbone, goes on from."""

    model: str
    served: Served | None
    lead_in: tuple[int, ...]
    style: Style
    on_piece: Callable[[Piece], None] | None = None
    """Hears each piece as it is written, in the engine's thread."""

"""What every route has at hand, and how it waits for the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from preface.serving.engine import Engine
from preface.serving.http.access import Caller
from preface.serving.http.errors import RefusedError
from preface.serving.http.limits import Limits

T = TypeVar("T")
FEW, SMALL = 16, 4_000
"""Texts, and characters, that are written in pieces while nothing else is done: a millisecond or two."""


@dataclass(frozen=True)
class Serving:
    """What a server consists of."""

    engine: Engine
    limits: Limits
    started: float
    runs: Path | None = None
    """The folder whose runs are shown."""

    def check_size(self, texts: Sequence[Any], models: Sequence[str] = ("",), zero_shot: bool = False) -> None:
        """Raise RefusedError where a request has too much of something; `zero_shot`: each prompt may have a task of its
        own, which is answered without it too."""
        limits = self.limits
        answers = len(texts) * len(models) * (2 if zero_shot else 1)
        if not texts or not models:
            raise RefusedError(400, "a request needs at least one text and one prompt")
        if len(texts) > limits.max_texts:
            raise RefusedError(413, f"{len(texts):,} texts: a request may have {limits.max_texts:,}; send several")
        if len(models) > limits.max_models or answers > limits.max_answers:
            raise RefusedError(
                413,
                f"{len(models):,} prompts on {len(texts):,} texts: a request may have {limits.max_models:,} prompts, "
                f"and {limits.max_answers:,} answers, those without a prompt among them; send several",
            )
        longest = max(map(_size, texts))
        if longest > limits.max_characters:
            raise RefusedError(413, f"a text of {longest:,} characters: it may have {limits.max_characters:,}")


def _size(text: Any) -> int:
    """Characters of a text, or of all fields of a row."""
    if isinstance(text, dict):
        return sum(map(_size, text.values()))
    return len(text) if isinstance(text, str) else 0


# both are async, though nothing is awaited: FastAPI runs others in a thread each, a third of a small request's time
async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _caller(request: Request) -> Caller:
    """Whom `guard.Known` found."""
    caller: Caller = request.state.caller
    return caller


AServing = Annotated[Serving, Depends(_serving)]
ACaller = Annotated[Caller, Depends(_caller)]


async def result(request: Request, futures: Iterable[Future[T]], timeout: float) -> list[T]:
    """What the engine answers. A caller that goes, or waits too long, frees its places.

    Raises RefusedError, or what the engine raised.
    """
    futures = list(futures)
    answers: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone: asyncio.Future[Any] = asyncio.ensure_future(until_gone(request))
    try:
        done, _ = await asyncio.wait({answers, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if answers in done:
            return list(answers.result())
    finally:  # also where this is cancelled, or one of them failed
        gone.cancel()
        for future in futures:
            future.cancel()
        answers.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await answers
    if gone in done:
        raise RefusedError(499, "the caller has gone")  # nobody reads it
    raise RefusedError(503, f"no answer within {timeout:g} seconds: too much is asked here; try again later", after=5)


async def off_the_loop(
    engine: Engine, models: Sequence[str], texts: Sequence[Any], work: Callable[..., T], *arguments: Any
) -> T:
    """What takes long where texts are long, prompts many or not loaded, or where another text is being written in
    pieces: then in a thread of its own, so that the server goes on; else at once, for a thread costs more."""
    few = len(models) * len(texts) < FEW and sum(map(_size, texts)) < SMALL
    if few and not engine.tokenizing.locked() and all(engine.store.is_loaded(name) for name in models):
        return work(*arguments)
    return await run_in_threadpool(work, *arguments)


async def until_gone(request: Request) -> None:
    """Until the caller closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())

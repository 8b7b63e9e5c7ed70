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
from preface.serving.http.access import Access, Caller
from preface.serving.http.errors import RefusedError
from preface.serving.http.limits import Limits

T = TypeVar("T")
LOCAL = ("localhost", "127.0.0.1", "::1")
FEW, SMALL = 16, 4_000
"""Texts, and characters, that are written in pieces while nothing else is done: a millisecond or two."""


@dataclass(frozen=True)
class Serving:
    """What a server consists of."""

    engine: Engine
    access: Access
    limits: Limits
    started: float
    runs: Path | None = None
    """The folder whose runs are shown."""
    local: bool = False
    """Whether it is for programs of this machine alone, without keys."""

    def check_size(self, texts: Sequence[Any], models: Sequence[str] = ("",)) -> None:
        """Raise RefusedError where a request has too much of something."""
        limits = self.limits
        if not texts or not models:
            raise RefusedError(400, "a request needs at least one text and one prompt")
        if len(texts) > limits.max_texts:
            raise RefusedError(413, f"{len(texts):,} texts: a request may have {limits.max_texts:,}; send several")
        if len(models) > limits.max_models or len(models) * len(texts) > limits.max_answers:
            raise RefusedError(
                413,
                f"{len(models):,} prompts on {len(texts):,} texts: a request may have {limits.max_models:,} prompts, "
                f"and {limits.max_answers:,} answers; send several",
            )
        longest = max(map(_size, texts))
        if longest > limits.max_characters:
            raise RefusedError(413, f"a text of {longest:,} characters: it may have {limits.max_characters:,}")


def _size(text: Any) -> int:
    """Characters of a text, or of all fields of a row."""
    if isinstance(text, dict):
        return sum(map(_size, text.values()))
    return len(text) if isinstance(text, str) else 0


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


def _caller(request: Request) -> Caller:
    serving = _serving(request)
    if not serving.access.keys:
        _check_origin(request, serving.local)
    address = request.client.host if request.client else "unknown"
    return serving.access.caller(request.headers.get("authorization"), address)


def _check_origin(request: Request, local: bool) -> None:
    """Raise RefusedError for what another site's page sends by the browser of somebody who looks at it: where no key is
    needed, it could do all that its reader can."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise RefusedError(403, f"origin {origin}: pages of other sites may not ask here; give the server --keys")
    if local and host.rpartition(":")[0].strip("[]") not in LOCAL and host not in LOCAL:
        raise RefusedError(403, f"host {host}: this server is for its own machine; call it localhost")


AServing = Annotated[Serving, Depends(_serving)]
ACaller = Annotated[Caller, Depends(_caller)]


async def result(request: Request, futures: Iterable[Future[T]], timeout: float) -> list[T]:
    """What the engine answers. A caller that goes, or waits too long, frees its places.

    Raises RefusedError, or what the engine raised.
    """
    futures = list(futures)
    answers: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
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


async def off_the_loop(texts: Sequence[Any], work: Callable[..., T], *arguments: Any) -> T:
    """What takes long where texts are long, such as writing them in pieces: then in a thread of its own, so that the
    server goes on; else at once, for a thread costs more."""
    if len(texts) < FEW and sum(map(_size, texts)) < SMALL:
        return work(*arguments)
    return await run_in_threadpool(work, *arguments)


async def _gone(request: Request) -> None:
    """Until the caller closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())

"""Texts that are written, as OpenAI's API has them: `/v1/completions`, `/v1/chat/completions`, `/v1/models`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.concurrency import run_in_threadpool

from preface.serving.asked import Piece, Style, Written
from preface.serving.http.access import Caller
from preface.serving.http.asking import ACaller, AServing, Serving, new_id, now, off_the_loop, result
from preface.serving.http.errors import RefusedError, as_object, refusal_of

router = APIRouter(prefix="/v1", tags=["texts"])
log = logging.getLogger("uvicorn.error")
"""Where the server writes what else goes wrong."""

NOT_TAKEN = "is not supported; leave it out"


class _Options(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="forbid")

    model: StrictStr = Field(description="A prompt's name, or the backbone's own for the bare model.")
    temperature: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="Default: 0 under a prompt, 1 for the bare model."
    )
    top_p: float | None = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    stop: StrictStr | list[StrictStr] | None = Field(None, description="Strings before which the text ends, at most 4.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    user: StrictStr | None = None
    n: Literal[1] | None = 1
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0

    def style(self, most: int, likeliest: int, bare: bool) -> Style:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4 or "" in stops:
            raise RefusedError(422, "stop: at most four strings, none of them empty", "stop")
        temperature = self.temperature if self.temperature is not None else float(bare)
        top_p = 1.0 if self.top_p is None else self.top_p
        return Style(most, temperature, top_p, tuple(stops), self.seed, likeliest)

    @property
    def with_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class Completion(_Options):
    """A text, or several, to be gone on from."""

    prompt: StrictStr | list[StrictStr] = Field(description="A text, or a list of texts.")
    max_tokens: int | None = Field(None, ge=1, description="Default: what the prompt's task allows; bare, 16.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = 1


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[dict[str, Any]] | None
    name: StrictStr | None = None

    @property
    def text(self) -> str:
        """Raises RefusedError for a message that is more than text."""
        parts = self.content if isinstance(self.content, list) else [{"type": "text", "text": self.content or ""}]
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in parts):
            raise RefusedError(422, "messages: only parts of the type text are read", "messages")
        return "".join(part["text"] for part in parts)


class ChatCompletion(_Options):
    """Messages to be answered. A prompt reads the last of the user's; the bare model all, by its chat template."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def most(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


@router.get("/models", summary="The prompts that are served, and the bare model")
def models(serving: AServing, caller: ACaller) -> dict[str, Any]:
    names = [serving.engine.bare, *serving.engine.store.names()]
    allowed = [name for name in names if caller.may_use(name)]
    return {"object": "list", "data": [_model(serving, name) for name in allowed]}


@router.get("/models/{model}", summary="One of them")
def one_model(model: str, serving: AServing, caller: ACaller) -> dict[str, Any]:
    caller.check([model])
    if model != serving.engine.bare:
        serving.engine.store.get(model)
    return _model(serving, model)


def _model(serving: Serving, name: str) -> dict[str, Any]:
    parent = None if name == serving.engine.bare else serving.engine.bare
    return {"id": name, "object": "model", "created": int(serving.started), "owned_by": "preface", "parent": parent}


@router.post("/completions", summary="Go on from texts", response_model=None)
async def completions(body: Completion, request: Request, serving: AServing, caller: ACaller) -> Response:
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    style = await _style(serving, caller, body, body.max_tokens, body.logprobs or 0)
    asked = _Asked(serving, caller, body.model, style, request)
    await asked.begin(texts)
    identity = {"id": new_id("cmpl"), "object": "text_completion", "created": now(), "model": body.model}
    wanted = body.logprobs is not None
    if body.stream:

        def piece(index: int, said: Piece | None, finish: str | None) -> dict[str, Any]:
            logprobs = _logprobs([said], wanted) if said is not None else None
            return {"index": index, "text": said.text if said else "", "logprobs": logprobs, "finish_reason": finish}

        return _stream(asked, identity, piece, body.with_usage)
    written = await asked.results()
    choices = [
        {"index": index, "text": each.text, "logprobs": _logprobs(each.pieces, wanted), "finish_reason": each.finish}
        for index, each in enumerate(written)
    ]
    return JSONResponse(identity | {"choices": choices, "usage": _usage(written)})


@router.post("/chat/completions", summary="Answer messages", response_model=None)
async def chat(body: ChatCompletion, request: Request, serving: AServing, caller: ACaller) -> Response:
    caller.check([body.model])
    text = _chat_text(serving, body)
    style = await _style(serving, caller, body, body.most, (body.top_logprobs or 0) if body.logprobs else 0)
    asked = _Asked(serving, caller, body.model, style, request)
    await asked.begin([text])
    kind = "chat.completion"
    identity = {"id": new_id("chatcmpl"), "object": kind, "created": now(), "model": body.model}
    wanted = bool(body.logprobs)
    if body.stream:

        def piece(index: int, said: Piece | None, finish: str | None) -> dict[str, Any]:
            delta = {} if said is None else {"role": "assistant", "content": said.text}
            logprobs = _chat_logprobs([said], wanted) if said is not None else None
            return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

        return _stream(asked, identity | {"object": f"{kind}.chunk"}, piece, body.with_usage)
    (written,) = await asked.results()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": written.text, "refusal": None},
        "logprobs": _chat_logprobs(written.pieces, wanted),
        "finish_reason": written.finish,
    }
    return JSONResponse(identity | {"choices": [choice], "usage": _usage([written])})


def _chat_text(serving: Serving, body: ChatCompletion) -> str:
    """What is read of some messages."""
    engine = serving.engine
    if body.model != engine.bare:
        if last := next((message for message in reversed(body.messages) if message.role == "user"), None):
            return last.text
        raise RefusedError(422, "messages: none is the user's", "messages")
    tokenizer = engine.backbone.tokenizer
    if tokenizer.chat_template is None:
        raise RefusedError(400, f"{engine.bare} has no chat template; ask /v1/completions", "model")
    messages = [{"role": message.role, "content": message.text} for message in body.messages]
    serving.check_size([message["content"] for message in messages])
    try:
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise RefusedError(400, f"messages: the model's chat template refuses them ({error})", "messages") from error
    # every text is begun with it, this one too
    return whole.removeprefix(str(tokenizer.bos_token)) if engine.backbone.begin else whole


async def _style(serving: Serving, caller: Caller, body: _Options, most: int | None, likeliest: int) -> Style:
    engine, limits = serving.engine, serving.limits
    caller.check([body.model])
    bare = body.model == engine.bare
    if most is None:
        most = Style.most if bare else (await run_in_threadpool(engine.store.get, body.model)).card.task.answer_pieces
    if most > limits.max_new_tokens:
        raise RefusedError(422, f"max_tokens {most:,}: at most {limits.max_new_tokens:,}", "max_tokens")
    return body.style(most, likeliest, bare)


class _Asked:
    """Some texts that the engine goes on from for a caller."""

    def __init__(self, serving: Serving, caller: Caller, model: str, style: Style, request: Request) -> None:
        self.serving, self.caller, self.model, self.style, self.request = serving, caller, model, style, request
        self.heard: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.futures: list[Future[Written]] = []

    async def begin(self, texts: Sequence[str]) -> None:
        """Ask about all of them, or, where one is refused, about none."""
        self.serving.check_size(texts)
        try:
            for index, text in enumerate(texts):
                asked = (self.model, text, self.style, self.caller.name, self._hears(index))
                engine = self.serving.engine
                self.futures.append(await off_the_loop(engine, [self.model], [text], engine.write, *asked))
        except BaseException:  # also where the caller goes meanwhile
            for future in self.futures:
                future.cancel()
            raise

    def _hears(self, index: int) -> Callable[[Piece], None]:
        def on_piece(piece: Piece) -> None:
            with suppress(RuntimeError):  # the server has stopped
                self.loop.call_soon_threadsafe(self.heard.put_nowait, (index, piece))

        return on_piece

    async def results(self) -> list[Written]:
        return await result(self.request, self.futures, self.serving.limits.timeout)


def _stream(
    asked: _Asked,
    identity: dict[str, Any],
    piece: Callable[[int, Piece | None, str | None], dict[str, Any]],
    with_usage: bool,
) -> StreamingResponse:
    """Server-sent events: each piece as it is written, then how each text ended."""

    def line(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps(identity | {'choices': choices} | more)}\n\n"

    async def events() -> AsyncIterator[str]:
        everything: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, asked.futures))
        deadline = asked.loop.time() + asked.serving.limits.timeout
        try:
            while not (everything.done() and asked.heard.empty()):
                hearing: asyncio.Future[Any] = asyncio.ensure_future(asked.heard.get())
                waiting = {hearing} if everything.done() else {hearing, everything}
                left = deadline - asked.loop.time()
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    index, said = hearing.result()
                    yield line([piece(index, said, None)])
                else:
                    hearing.cancel()
                    if not everything.done():
                        raise RefusedError(503, "not written within the time that a request may take")
            written = everything.result()
            for index, each in enumerate(written):
                yield line([piece(index, None, each.finish)])
            if with_usage:
                yield line([], usage=_usage(written))
        except Exception as error:
            failure = refusal_of(error)
            if failure.status == 500:
                log.exception("a text that was being sent in pieces was not written to its end")
            yield f"data: {json.dumps(as_object(failure.status, failure.message))}\n\n"
        finally:  # also where the caller has gone, or one of them failed
            for future in asked.futures:
                future.cancel()
            everything.cancel()
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _usage(written: Sequence[Written]) -> dict[str, int]:
    read, said = sum(each.read for each in written), sum(len(each.pieces) for each in written)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _logprobs(pieces: Sequence[Piece], wanted: bool) -> dict[str, Any] | None:
    """As completions have them."""
    if not wanted:
        return None
    offsets, at = [], 0
    for piece in pieces:
        offsets.append(at)
        at += len(piece.text)
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [piece.log_probability for piece in pieces],
        "top_logprobs": [piece.likeliest for piece in pieces],
        "text_offset": offsets,
    }


def _chat_logprobs(pieces: Sequence[Piece], wanted: bool) -> dict[str, Any] | None:
    """As chat completions have them."""

    def one(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    if not wanted:
        return None
    return {
        "content": [
            one(piece.text, piece.log_probability)
            | {"top_logprobs": [one(text, value) for text, value in piece.likeliest.items()]}
            for piece in pieces
        ],
        "refusal": None,
    }

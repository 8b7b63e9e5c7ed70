"""Texts to labels: `/classify` as vLLM has it, `/predict` as text-embeddings-inference has it, for any prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.concurrency import run_in_threadpool

from preface.serving.asked import Answer, Result
from preface.serving.http.asking import ACaller, AServing, Serving, new_id, now, off_the_loop, result
from preface.serving.http.errors import RefusedError

router = APIRouter(tags=["labels"])

Text = StrictStr | dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Classify(_Body):
    """Texts under one prompt, or under several that all answer about each."""

    model: StrictStr | None = Field(None, description="The prompt's name.")
    models: list[StrictStr] | None = Field(None, description="Several prompts, on the same texts.")
    input: Text | list[Text] = Field(description="A text, or the fields of the prompts' task; or a list of either.")
    zero_shot: bool = Field(False, description="Whether the bare model answers too, once for each task.")
    user: StrictStr | None = None


class Label(BaseModel):
    """What one prompt says of one text."""

    index: int
    """Of the text."""
    model: str
    label: str
    labels: tuple[str, ...] | None
    """Where the task has several labels a text: those."""
    probs: list[float]
    num_classes: int
    probabilities: dict[str, float]
    """The same by label word."""
    cut: bool
    """Whether the text was longer than the prompt reads."""
    read_before: bool
    """Whether the text had been read before, so that only the answer was new."""


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Labels(BaseModel):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Label]
    usage: Usage
    seconds: float


@router.post("/classify", summary="Label texts, under one prompt or many")
async def classify(body: Classify, request: Request, serving: AServing, caller: ACaller) -> Labels:
    if (body.model is None) == (body.models is None):
        raise RefusedError(422, "give model, the name of a prompt, or models, a list of them", "model")
    models = body.models if body.models is not None else [str(body.model)]
    texts = body.input if isinstance(body.input, list) else [body.input]
    answered = await _ask(request, serving, caller, models, texts, body.zero_shot)
    rows = [(number, answer) for number, answers in enumerate(answered.answers) for answer in answers]
    read = sum(max(answer.pieces for answer in answers) for answers in answered.answers)
    return Labels(
        id=new_id("classify"),
        created=now(),
        model=",".join(models),
        data=[_label(number, answer) for number, answer in rows],
        usage=Usage(prompt_tokens=read, total_tokens=read),
        seconds=answered.seconds,
    )


def _label(index: int, answer: Answer) -> Label:
    return Label(
        index=index,
        model=answer.model,
        label=answer.label,
        labels=answer.labels,
        probs=list(answer.probabilities.values()),
        num_classes=len(answer.probabilities),
        probabilities=answer.probabilities,
        cut=answer.cut,
        read_before=answer.kept,
    )


class Predict(_Body):
    """Texts under one prompt."""

    inputs: StrictStr | list[StrictStr | list[StrictStr]] = Field(
        description="A text; a pair, as a list of two; or a batch, as a list of lists of one or two."
    )
    model: StrictStr | None = Field(None, description="The prompt's name; where there is one prompt, it.")
    truncate: bool = Field(False, description="Whether a text that is too long is cut; else it is refused.")
    raw_scores: bool = Field(False, description="Log-probabilities instead of probabilities.")


class Score(BaseModel):
    label: str
    score: float


@router.post("/predict", summary="Label texts; the scores of all labels, the likeliest first")
async def predict(
    body: Predict, request: Request, serving: AServing, caller: ACaller
) -> list[Score] | list[list[Score]]:
    model = body.model if body.model is not None else _only(serving)
    caller.check([model])
    single = isinstance(body.inputs, str) or all(isinstance(each, str) for each in body.inputs)
    inputs: list[Any] = [body.inputs] if single else list(body.inputs)
    pairs = any(not isinstance(each, str) and len(each) != 1 for each in inputs)
    fields = (await run_in_threadpool(serving.engine.store.get, model)).card.task.text_fields if pairs else ()
    texts = [_fields(model, fields, each) for each in inputs]
    answered = await _ask(request, serving, caller, [model], texts)
    answers = [row[0] for row in answered.answers]
    if not body.truncate and any(answer.cut for answer in answers):
        raise RefusedError(413, f"a text is longer than the prompt {model} reads; shorten it, or give truncate: true")
    scores = [_scores(answer, body.raw_scores) for answer in answers]
    return scores[0] if single else scores


def _only(serving: Serving) -> str:
    names = serving.engine.store.names()
    if len(names) != 1:
        raise RefusedError(422, f"model: there are {len(names):,} prompts; name one (/v1/models lists them)", "model")
    return names[0]


def _fields(model: str, fields: Sequence[str], given: str | list[str]) -> str | dict[str, str]:
    """A text, or a pair as the two fields of the prompt's task."""
    parts = [given] if isinstance(given, str) else given
    if len(parts) == 1:
        return parts[0]
    if len(parts) != len(fields):
        read = ", ".join(fields)
        raise RefusedError(422, f"inputs: {len(parts)} texts, and the prompt {model} reads {read}", "inputs")
    return dict(zip(fields, parts, strict=True))


def _scores(answer: Answer, raw: bool) -> list[Score]:
    pairs = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    return [Score(label=label, score=math.log(max(value, 1e-38)) if raw else value) for label, value in pairs]


async def _ask(
    request: Request, serving: Serving, caller: ACaller, models: list[str], texts: list[Text], zero_shot: bool = False
) -> Result:
    caller.check(models)
    serving.check_size(texts, models, zero_shot)
    engine = serving.engine
    future = await off_the_loop(engine, models, texts, engine.ask, models, texts, caller.name, zero_shot)
    (answered,) = await result(request, [future], serving.limits.timeout)
    return answered

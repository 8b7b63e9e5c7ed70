"""The prompts of a server: what each is, and adding and removing them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile

from preface.serving.http.asking import ACaller, AServing
from preface.serving.store import Served

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])


@router.get("", summary="The names of all prompts")
def listed(serving: AServing, caller: ACaller) -> dict[str, Any]:
    names = serving.engine.store.names()
    return {"object": "list", "data": [name for name in names if caller.key is None or caller.key.may_use(name)]}


@router.get("/{name}", summary="What a prompt is for")
def one(name: str, serving: AServing, caller: ACaller) -> dict[str, Any]:
    caller.check([name])
    return about(serving.engine.store.get(name))


@router.post("", status_code=201, summary="Add a prompt, or put another in the place of one")
def add(
    serving: AServing,
    caller: ACaller,
    name: Annotated[str, Form(description="Letters, digits, dots, dashes, underscores.")],
    card: Annotated[UploadFile, File(description="prompt.json, as preface train writes it.")],
    tensors: Annotated[UploadFile, File(description="prompt.safetensors, as preface train writes it.")],
) -> dict[str, Any]:
    caller.check_write()
    caller.check([name])
    files = {"prompt.json": card.file.read(), "prompt.safetensors": tensors.file.read()}
    return about(serving.engine.store.add(name, files))


@router.delete("/{name}", status_code=204, summary="Remove a prompt; requests that have begun are still answered")
def removed(name: str, serving: AServing, caller: ACaller) -> Response:
    caller.check_write()
    caller.check([name])
    serving.engine.store.remove(name)
    return Response(status_code=204)


def about(served: Served) -> dict[str, Any]:
    """What a prompt's card says that a user of it wants to know."""
    card = served.card
    return {
        "name": served.name,
        "task": card.task.name,
        "description": card.task.description,
        "fields": card.task.text_fields,
        "method": card.method.name,
        "configuration": card.method.config,
        "labels": card.label_words,
        "development_score": card.member.score,
        "metric": card.task.metric,
        "members": served.prompts.size,
        "read_once": served.leaves_reading,
        "bytes": served.bytes,
        "backbone": card.backbone,
    }

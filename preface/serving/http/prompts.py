"""The prompts of a server: what each is, and adding and removing them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from fastapi import APIRouter, File, Form, Response, UploadFile

from preface.backbones.base import Backbone
from preface.records.card import PromptCard
from preface.records.hub import FILES
from preface.records.run import cells_of, command_of
from preface.serving.http.asking import ACaller, AServing
from preface.serving.store import Served

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])


@router.get("", summary="The names of all prompts")
def listed(serving: AServing, caller: ACaller) -> dict[str, Any]:
    names = serving.engine.store.names()
    allowed = [name for name in names if caller.may_use(name)]
    may_write = caller.key is None or caller.key.write
    return {"object": "list", "data": allowed, "backbone": serving.engine.bare, "may_write": may_write}


@router.get("/{name}", summary="What a prompt is for")
def one(name: str, serving: AServing, caller: ACaller) -> dict[str, Any]:
    caller.check([name])
    served = serving.engine.store.get(name)
    words = nearest_words(served, serving.engine.backbone)
    return about(served) | of_its_run(serving.engine.store.path(name), served.card) | {"words": words}


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
    files = dict(zip(FILES, (card.file.read(), tensors.file.read()), strict=True))
    return about(serving.engine.store.add(name, files))


@router.delete("/{name}", status_code=204, summary="Remove a prompt; requests that have begun are still answered")
def removed(name: str, serving: AServing, caller: ACaller) -> Response:
    caller.check_write()
    caller.check([name])
    serving.engine.store.remove(name)
    return Response(status_code=204)


def of_its_run(folder: Path, card: PromptCard) -> dict[str, Any]:
    """What a run's folder tells beside its prompt: how it was made, and the prompt's scores by task; nothing of what is
    not there, or cannot be read."""
    scores = [
        {"task": cell.eval_task, "metric": cell.metric, "value": cell.value, "rows": cell.n}
        for cell in cells_of(folder, card)
    ]
    return {"command": command_of(folder), "scores": scores}


def nearest_words(served: Served, backbone: Backbone) -> list[str]:
    """The piece that each input embedding of a prompt is nearest to, by cosine, each once; of a prefix, none."""
    if served not in _nearest:
        _nearest[served] = _nearest_words(served, backbone)
    return _nearest[served]


_nearest: WeakKeyDictionary[Served, list[str]] = WeakKeyDictionary()
"""Looking through a vocabulary takes long, and memory."""


@torch.inference_mode()
def _nearest_words(served: Served, backbone: Backbone) -> list[str]:
    tensors = served.prompts.tensors
    carrier = next((name for name in ("embeddings", "after") if name in tensors), None)
    if carrier is None or served.prompts.size > 1:
        return []
    table = backbone.embeddings.float()  # [vocabulary, d]
    likeness = tensors[carrier][0].float() @ table.T / table.norm(dim=1).clamp(min=1e-6)  # [n, vocabulary]
    pieces = likeness[:, : len(backbone.tokenizer)].argmax(1).tolist()
    words = [str(backbone.tokenizer.decode([piece])).strip() for piece in pieces]
    return list(dict.fromkeys(word for word in words if word))


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
        "development_score": card.development_score,
        "metric": card.task.metric,
        "members": served.prompts.size,
        "read_once": served.leaves_reading,
        "bytes": served.prompts.bytes,
        "backbone": card.backbone,
    }

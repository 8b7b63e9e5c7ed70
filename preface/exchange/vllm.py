"""Request bodies for vLLM's completions, which take a prompt's embeddings with those of the text (`prompt_embeds`,
https://docs.vllm.ai/en/stable/features/prompt_embeds/); the server needs `--enable-prompt-embeds`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.quantized import split_name
from preface.errors import UserError
from preface.exchange.base import INPUT_EMBEDDINGS, tensors_for
from preface.labelling.free_text import FreeText, wanted
from preface.records.atomic import naming, replacing
from preface.records.card import SavedPrompt
from preface.tasks import Example, render

HOLDS = f"{INPUT_EMBEDDINGS}, before the text or after it"


def write_vllm(saved: SavedPrompt, path: Path, load: Callable[[], Backbone], examples: Iterable[Example]) -> None:
    """Write a request for each text, a line each.

    A request is of what the model reads until it answers: the prompt, the text, and what leads in to an answer.
    Raises UserError for a prompt that is no input embeddings of a decoder-only model.
    """
    tensors = tensors_for(saved, ("embeddings", "after"), "vLLM", HOLDS)
    card, model = saved.card, load()
    if not isinstance(model, CausalBackbone):
        raise UserError(f"{saved.folder}: is of {model.name}, which has an encoder, and vLLM takes decoder-only models")
    if card.task.multi_label:
        raise UserError(f"{saved.folder}: asks a question for each label of {card.task.name}, and a request holds one")
    asked = wanted(model, card.task)
    most = asked.most if isinstance(asked, FreeText) else max(map(len, asked.pieces))
    about = {"model": split_name(card.backbone)[0], "max_tokens": most, "temperature": 0}
    question = model.question(card.task.wording, card.task.cue)
    with naming(path), replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for example in examples:
            (ids,), _ = render(model.tokenize, [example], card.max_input_tokens, question)
            read = _embedded(model, tensors, ids, asked.lead_in)
            file.write(json.dumps(about | {"prompt_embeds": _encoded(read)}) + "\n")


@torch.no_grad()
def _embedded(model: Backbone, tensors: dict[str, Tensor], ids: Sequence[int], lead_in: Sequence[int]) -> Tensor:
    """All that is read until an answer begins, `[length, d]`, float32."""
    text, end = (model.embed(torch.tensor(part, device=model.device)).float().cpu() for part in (ids, lead_in))
    none = text[:0]
    return torch.cat([tensors.get("embeddings", none), text, tensors.get("after", none), end])


def _encoded(read: Tensor) -> str:
    """As vLLM reads it: a tensor that torch saved, in base64."""
    buffer = io.BytesIO()
    torch.save(read, buffer)
    return base64.b64encode(buffer.getvalue()).decode()

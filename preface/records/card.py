"""A soft prompt on disk: its tensors, and the card that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from preface.backbones.t5 import Shape
from preface.errors import UserError
from preface.prompts import SITES, Injection, KeyValues
from preface.records.atomic import DamagedError, read_folder, write_folder
from preface.records.record import Record
from preface.tasks import Task


@dataclass(frozen=True)
class Member:
    """One prompt of a population, and how it did on the development split."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    index: int
    learning_rate: float
    seed: int
    score: float
    """Best score, in [0, 1]."""
    loss: float
    """Loss at that evaluation: the mean of −log of the probability given to the right label among the labels."""
    step: int
    """Step of that evaluation."""


class MethodRecord(Record):
    """A method's name, and the fields of its configuration."""

    name: str
    config: dict[str, Any]


class Origin(Record):
    """What a prompt was made for: a backbone, a task, a method."""

    backbone: str = Field(min_length=1)
    """An embedded backbone's name, a folder's absolute path, or a name on the hub."""
    revision: str | None = None
    """The commit, where the backbone is from the hub."""
    fingerprint: str
    shape: Shape
    method: MethodRecord
    task: Task
    label_words: tuple[str, ...] = Field(min_length=2)


class PromptCard(Origin):
    """What `prompt.json` says of the tensors beside it."""

    max_input_tokens: int = Field(ge=2)
    trained_parameters: int
    member: Member
    versions: dict[str, str]
    tensors: dict[str, tuple[int, ...]] | None = None
    """The sizes of each; None in cards that were written before they were recorded."""


@dataclass(frozen=True)
class SavedPrompt:
    """A soft prompt read from disk: an injection of one prompt, and its card."""

    injection: Injection
    card: PromptCard


def save_prompt(folder: Path, injection: Injection, card: PromptCard, prompt: int = 0) -> None:
    """Write one prompt of an injection into `folder` as `prompt.safetensors` and `prompt.json`."""
    tensors = tensors_of(injection, prompt)
    sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_folder(folder, "prompt", tensors, card.model_copy(update={"tensors": sizes}).as_json())


def load_prompt(folder: str | Path) -> SavedPrompt:
    """Read a prompt: its folder, or a run's (then the run's best). Raises UserError if absent or damaged."""
    folder = Path(folder)
    if not (folder / "prompt.json").exists() and (folder / "prompt" / "prompt.json").exists():
        folder = folder / "prompt"
    if (folder / "run.json").exists() and not (folder / "prompt.json").exists():
        raise UserError(f"{folder}: not finished; `preface train --resume {folder}` goes on")
    if not (folder / "prompt.json").exists():
        raise UserError(f"{folder}: no prompt here; give the folder of a finished run, or one with prompt.json")
    try:
        tensors, content = read_folder(folder, "prompt")
    except DamagedError as error:
        raise UserError(f"{error}; train it again, or copy it anew") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from error
    card = PromptCard.of(content, folder / "prompt.json")
    if problem := _misfit(tensors, card):
        raise UserError(f"{folder / 'prompt.safetensors'}: {problem}; train it again, or copy it anew")
    return SavedPrompt(injection_of(tensors), card)


def tensors_of(injection: Injection, prompt: int = 0) -> dict[str, Tensor]:
    """The tensors of one prompt of an injection: `embeddings` `[n, d_model]`; `site.keys`, `site.values`
    `[L, H, n, d_kv]`; `site.relative` `[]`. All float32."""
    tensors = {}
    if injection.embeddings is not None:
        tensors["embeddings"] = injection.embeddings[prompt]
    for site in SITES:
        kv = injection.site(site)
        if kv is not None:
            tensors[f"{site}.keys"] = torch.stack([layer[prompt] for layer in kv.keys])
            tensors[f"{site}.values"] = torch.stack([layer[prompt] for layer in kv.values])
            if kv.relative is not None:
                tensors[f"{site}.relative"] = kv.relative[prompt]
    # clones: a view of a bank's storage would keep the whole bank, and safetensors refuses to write it
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def injection_of(tensors: Mapping[str, Tensor]) -> Injection:
    """The inverse of `tensors_of`: an injection of one prompt."""
    sites = {}
    for site in SITES:
        if f"{site}.keys" in tensors:
            relative = tensors.get(f"{site}.relative")
            sites[site] = KeyValues.from_stacked(
                tensors[f"{site}.keys"][None],
                tensors[f"{site}.values"][None],
                relative=None if relative is None else relative[None],
            )
    embeddings = tensors.get("embeddings")
    return Injection(embeddings=None if embeddings is None else embeddings[None], **sites)  # type: ignore[arg-type]


def _misfit(tensors: Mapping[str, Tensor], card: PromptCard) -> str | None:
    """Why these are not the tensors of the card's prompt; None: they are."""
    if not tensors:
        return "has no tensors"
    for name, tensor in tensors.items():
        sizes = _sizes(name, card.shape)
        if sizes is None:
            return f"{name!r} is no tensor of a prompt"
        if tensor.dim() != len(sizes) or any(b not in (a, -1) for a, b in zip(tensor.shape, sizes, strict=True)):
            return f"{name!r} has the sizes {list(tensor.shape)}, which do not fit the backbone"
        if not name.endswith(".relative") and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            return f"{name!r} holds values that are no finite numbers"
    for site in SITES:
        keys, values = tensors.get(f"{site}.keys"), tensors.get(f"{site}.values")
        if (None if keys is None else keys.shape) != (None if values is None else values.shape):
            return f"{site!r} has not as many keys as values"
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if card.tensors is not None and found != card.tensors:
        return f"its tensors, {', '.join(sorted(found))}, are not those of prompt.json"
    return None


def _sizes(name: str, shape: Shape) -> tuple[int, ...] | None:
    """The sizes of a prompt's tensor of that name, −1 for the prompt's length; None: there is none of that name."""
    if name == "embeddings":
        return -1, shape.d_model
    site = next((site for site in SITES if name.startswith(f"{site}.")), None)
    if site is not None and name in (f"{site}.keys", f"{site}.values"):
        return shape.layers(site), shape.heads, -1, shape.d_kv
    return () if name == f"{site}.relative" else None

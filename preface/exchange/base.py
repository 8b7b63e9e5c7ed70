"""What formats have in common: which prompts of ours they can hold, and what is read of theirs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.card import SavedPrompt

INPUT_EMBEDDINGS = (
    "the input embeddings of prompt-tuning, p-tuning, residual-prompts, decomposed-prompts, low-dimensional-prompts "
    "and multitask-prompt-tuning"
)

Load = Callable[[str | None], Backbone]
"""The backbone that the user names, else the one whose name is given."""


@dataclass(frozen=True)
class Foreign:
    """A prompt that another program has written."""

    model: Backbone
    method: str
    """As Preface names it."""
    tensors: Mapping[str, Tensor]
    """Of the prompt, as its folder here will hold them; or what several tasks' prompts share."""
    each: tuple[Mapping[str, Tensor], ...] = ()
    """Of several tasks that share it, each one's."""


def embeddings_for(model: Backbone, table: Tensor, path: Path) -> dict[str, Tensor]:
    """Input embeddings before the text, `[n, d]`, of another program's. Raises UserError if they do not fit."""
    if table.dim() != 2 or table.shape[1] != model.width or not len(table):
        raise UserError(
            f"{path}: holds numbers of sizes {list(table.shape)}, and a prompt of {model.name} has [length, "
            f"{model.width}]; give the model that it is of with --backbone"
        )
    return {"embeddings": table}


def refuse_several(saved: SavedPrompt) -> None:
    """Raise UserError for an ensemble."""
    if (ensemble := saved.card.ensemble) is not None:
        raise UserError(
            f"{saved.folder}: is an ensemble; export the prompts that it is made of one by one, such as "
            f"{ensemble.runs[0]}"
        )


def tensors_for(saved: SavedPrompt, names: Collection[str], format: str, holds: str) -> dict[str, Tensor]:
    """The tensors of a single prompt, float32.

    Args:
        names: those that the format can hold.
        format, holds: what it is called, and what it holds, as the error says.

    Raises UserError for a prompt that has others, of several prompts, and where it is only what several tasks share.
    """
    refuse_several(saved)
    saved.refuse_shared()
    tensors = saved.prompts.tensors_of(0)
    for name in sorted(tensors):
        if name not in names:
            raise UserError(
                f"{saved.folder}: {saved.card.method.name} on {saved.card.backbone} {_in_words(name)}, and {format} "
                f"has no place for that; it holds {holds}"
            )
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _in_words(name: str) -> str:
    """What a prompt with such a tensor does."""
    carrier, _, part = name.partition(".")
    match carrier, part:
        case (_, "added"):
            return "adds to states between layers"
        case (_, "relative"):
            return "has keys without a position bias (--positions none)"
        case ("after", _):
            return "stands after the text, which does not see it"
        case ("answer", _):
            return "has keys and values at the answer site, which the text does not see"
        case ("labels", _):
            return "has vectors in the place of label words"
        case ("embeddings", _):
            return "has input embeddings before the text"
        case _:
            return f"has keys and values at the {carrier} site"

"""NumPy's files: a prompt of input embeddings is one array `[length, d]`, as Google's released prompts are
(https://github.com/google-research/prompt-tuning)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from preface.errors import UserError, first_line
from preface.exchange.base import INPUT_EMBEDDINGS, Foreign, Load, embeddings_for, tensors_for
from preface.records.atomic import naming, replacing
from preface.records.card import SavedPrompt

SUFFIX = ".npy"


def write_numpy(saved: SavedPrompt, path: Path) -> None:
    """Write a prompt as `[length, d]`, float32. Raises UserError for other than input embeddings before the text."""
    tensors = tensors_for(saved, ["embeddings"], "a .npy file", f"{INPUT_EMBEDDINGS}, before the text")
    with naming(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, tensors["embeddings"].numpy())


def read_numpy(path: Path, load: Load) -> Foreign:
    """Read a file of embeddings before the text. Raises UserError if it is none, or does not fit the backbone."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: is no {SUFFIX} file of numbers ({first_line(error)})") from error
    if not (isinstance(array, np.ndarray) and array.dtype.kind == "f"):
        raise UserError(f"{path}: holds no floating-point numbers; a prompt is an array [length, d] of them")
    model = load(None)
    table = torch.from_numpy(array.astype(np.float32))
    return Foreign(model, "prompt-tuning", embeddings_for(model, table, path))

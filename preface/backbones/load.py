"""Backbones by name: embedded in the package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from preface.backbones import families, gguf
from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.packed import bfloat16_is_fast
from preface.backbones.quantized import name_with, quantize, split_name
from preface.backbones.t5 import T5Backbone
from preface.errors import UserError, first_line
from preface.hub import SECONDS, hub_error

EMBEDDED = Path(__file__).parent
FAMILIES: dict[str, type[Backbone]] = {
    "t5": T5Backbone,
    "mt5": T5Backbone,
    **dict.fromkeys(families.FAMILIES, CausalBackbone),
}
"""By the model type that a checkpoint's configuration names."""
GGUF = ".gguf"
SHIPPED = "nano"
"""The backbone inside the package."""


def default_backbone() -> str:
    """What is taken where no backbone is named: PREFACE_BACKBONE, else `smollm2` where its package is installed, else
    `nano`."""
    return os.environ.get("PREFACE_BACKBONE") or (SHIPPED if gguf.smollm2() is None else gguf.SMOLLM2)


def load_backbone(name_or_path: str | Path | None = None, dtype: str = "auto", device: str = "auto") -> Backbone:
    """Load and freeze a Transformers checkpoint: of the T5 family (T5 v1.0, v1.1, LM-adapted, Flan, mT5), or a
    decoder-only model of one of the types in `preface.backbones.families`.

    Args:
        name_or_path: the embedded backbone (`nano`), the one of the package registry (`smollm2`), a folder, a GGUF
            file, or a name on the Hugging Face hub; None: `default_backbone`. After it `@int8` or `@nf4`: how its
            weights are held (`quantized`).
        dtype: `float32`, `bfloat16`, or `auto`: what the environment's PREFACE_DTYPE says; without it bfloat16
            where the hardware multiplies it fast, else float32. Never float16, in which T5 v1 overflows.
        device: `auto` (a GPU if there is one), or any name that torch knows.

    Raises:
        UserError: no such checkpoint, of a type that is not taken, or an unknown dtype or device.
    """
    name_or_path = name_or_path or default_backbone()
    name, kind = split_name(name_or_path)
    target = device_named(device)
    if target.type == "cpu":
        keep_freed_memory()
    chosen = dtype_named(dtype, target)
    model, tokenizer = load_checkpoint(name, chosen)
    if kind is None:  # else its weights may fit the device as they will be held alone
        model.to(target)  # type: ignore[arg-type]
    backbone = backbone_from(resolved(name_or_path), model, tokenizer, getattr(model.config, "_commit_hash", None))
    if kind is not None:
        quantize(backbone, kind, target)
    return backbone


def backbone_from(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
) -> Backbone:
    """A model that is loaded, frozen, as its family reads and answers."""
    return FAMILIES[model.config.model_type](name, model, tokenizer, revision)


def resolved(name_or_path: str | Path) -> str:
    """A name that means the same from any folder: an embedded or hub name as it is, a folder's whole path."""
    name, kind = split_name(name_or_path)
    path = checkpoint_path(name)
    is_folder = Path(path).is_dir() and path == name
    whole = str(Path(path).resolve()) if is_folder else name
    return whole if kind is None else name_with(whole, kind)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of handing it back: each step wants the same blocks again, zeroed anew."""
    if sys.platform == "linux":
        trim, mmap, largest = -1, -3, 32 * 2**20  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and its limit
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(mmap, largest)
            mallopt(trim, 2**31 - 1)


def embedded() -> list[str]:
    """The names of the backbones that ship inside the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def checkpoint_path(name_or_path: str | Path) -> str | Path:
    """Where a backbone's folder lies: an embedded one's, or one made of a GGUF file; any other name as it is."""
    if str(name_or_path) in embedded():
        return EMBEDDED / name_or_path
    if str(name_or_path) == gguf.SMOLLM2:
        found = gguf.smollm2()
        return gguf.HUB_NAME if found is None else gguf.folder_of(found)
    if str(name_or_path).endswith(GGUF):
        return gguf.folder_of(Path(name_or_path))
    return name_or_path


def load_checkpoint(name_or_path: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint, as `load_backbone` names it.

    Raises UserError as `load_backbone` does.
    """
    name, quantized = split_name(name_or_path)
    if quantized is not None:
        raise UserError(f"backbone {name_or_path}: the weights are wanted as they are here; give {name}")
    transformers_logging.disable_progress_bar()
    path = checkpoint_path(name_or_path)
    unreachable = None if Path(path).is_dir() else _out_of_reach(str(path))
    # without the hub its cache has to do; asking it anyway would mean retries for half a minute
    source: dict[str, Any] = {"local_files_only": unreachable is not None}
    try:
        config = AutoConfig.from_pretrained(path, **source)
        family = FAMILIES.get(config.model_type, CausalBackbone)
        if family is CausalBackbone and (reason := families.refusal(config)):
            raise UserError(f"backbone {name_or_path}: a {config.model_type} model: {reason}")
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        kind: Any = AutoModelForCausalLM if family is CausalBackbone else AutoModelForSeq2SeqLM
        model, found = kind.from_pretrained(path, dtype=dtype, output_loading_info=True, **source)
        if missing := sorted(found["missing_keys"]):  # Transformers would draw them at random
            raise ValueError(f"its weights lack {missing[0]}")
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with its files, each library has an error of its own for it
        if unreachable is not None:
            raise _unknown(name_or_path, f"in the hub's cache ({unreachable})") from error
        raise UserError(
            f"backbone {name_or_path}: cannot be loaded ({first_line(error)}); give a folder with config.json, weights "
            f"and a tokenizer, a name on the Hugging Face hub, or `{SHIPPED}`, which ships with Preface"
        ) from error
    return model, tokenizer


def _out_of_reach(name: str) -> str | None:
    """Why the hub does not answer for a model, None if it has it. Raises UserError if it says that it has none."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    match hub_error(lambda api: api.model_info(name, timeout=SECONDS)):
        case None:
            return None
        case RepositoryNotFoundError() | HFValidationError() as error:
            raise _unknown(name, "on the Hugging Face hub") from error
        case error:
            return f"the Hugging Face hub is out of reach: {first_line(error)}"


def _unknown(name: str | Path, where: str) -> UserError:
    if str(name) in (gguf.SMOLLM2, gguf.HUB_NAME):
        return UserError(f"backbone {name}: `{gguf.INSTALL}` brings it; {gguf.HUB_NAME} is not {where}")
    near = get_close_matches(str(name), embedded(), n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return UserError(f"backbone {name}: neither embedded ({', '.join(embedded())}), nor a folder, nor {where}{meant}")


def device_named(name: str) -> torch.device:
    """`auto` is a GPU if there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name}: not available here; `cpu` always is") from error
    return device


def dtype_named(name: str, device: torch.device) -> torch.dtype:
    """`auto` is PREFACE_DTYPE, else bfloat16 where the hardware multiplies it. Raises UserError for unknown names."""
    if name == "auto":
        name = os.environ.get("PREFACE_DTYPE") or name
    if name == "auto":
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        raise UserError(f"dtype {name}: one of auto, {', '.join(dtypes)} (float16 overflows in T5)")
    return dtypes[name]


def dtype_name(dtype: torch.dtype) -> str:
    """As on the command line: `float32` or `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def processor() -> str:
    """What the CPU calls itself, as far as this build of torch or Python can tell."""
    found = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return str(found).strip()


def computed_in(backbone: Backbone) -> str:
    """In what precision a backbone computes, and on what: `bfloat16 on AMD EPYC, 2 threads`."""
    if backbone.device.type == "cuda":
        where = torch.cuda.get_device_name(backbone.device)
    else:
        threads = torch.get_num_threads()
        where = f"{processor()}, {threads} thread{'s'[: threads != 1]}"
    return f"{dtype_name(backbone.dtype)} on {where}"

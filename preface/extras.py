"""Packages that only some of the work needs: the extras of `pyproject.toml`."""

from __future__ import annotations

from importlib.util import find_spec

from preface.errors import UserError

EXTRAS = {
    "cluster": ("ray",),
    "peft": ("peft",),
    "lm-eval": ("lm_eval",),
    "quantize": ("bitsandbytes",),
    "serve": ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "multipart"),
}
"""The modules of each, as they are imported."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed; none is imported."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def check_installed(extra: str, what: str) -> None:
    """Raise UserError where something lacks a module of the extra that it needs."""
    if lacking := missing(extra):
        raise UserError(f"{what}: needs {', '.join(lacking)}; `pip install 'preface[{extra}]'` brings what is missing")

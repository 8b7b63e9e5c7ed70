"""Methods: each a small configuration and a module that makes prompts. A file here is a method."""

from __future__ import annotations

from preface.errors import UserError
from preface.methods.base import Counts, Method, PromptModule
from preface.methods.prefix_tuning import PrefixTuning
from preface.methods.prompt_tuning import PromptTuning
from preface.registry import subclasses

METHODS: dict[str, type[Method]] = {method.name: method for method in subclasses(Method, __name__)}  # type: ignore[type-abstract]

__all__ = ["METHODS", "Counts", "Method", "PrefixTuning", "PromptModule", "PromptTuning", "method_named"]


def method_named(name: str) -> type[Method]:
    """The method of that name. Raises UserError, listing those there are."""
    if name not in METHODS:
        raise UserError(f"method {name}: unknown; one of {', '.join(METHODS)}")
    return METHODS[name]

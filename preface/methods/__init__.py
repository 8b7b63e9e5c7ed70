"""Methods: each a small configuration and a module that makes prompts. A file here is a method."""

from __future__ import annotations

from functools import cache

from preface.errors import UserError
from preface.methods.base import Counts, Method, PromptModule
from preface.methods.prefix_tuning import PrefixTuning
from preface.methods.prompt_tuning import PromptTuning
from preface.registry import subclasses
from preface.terminal.progress import say

METHODS: dict[str, type[Method]] = {method.name: method for method in subclasses(Method, __name__)}  # type: ignore[type-abstract]

ALIASES = {"p-tuning-v2": ("prefix-tuning", "P-tuning v2 (Liu et al. 2022) is prefix tuning without reparametrisation")}
"""Names that the literature has for a method beside its own, and what to say of them."""

__all__ = ["METHODS", "Counts", "Method", "PrefixTuning", "PromptModule", "PromptTuning", "method_named"]


def method_named(name: str) -> type[Method]:
    """The method of that name. Raises UserError, listing those there are."""
    if name in ALIASES:
        name, what_it_is = ALIASES[name]
        _say_once(f"{what_it_is}: {name} it is")
    if name not in METHODS:
        raise UserError(f"method {name}: unknown; one of {', '.join((*METHODS, *ALIASES))}")
    return METHODS[name]


_say_once = cache(say)

"""Several labels of one text: as a field holds them, and as the one text that files and tables have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

NONE = "(none)"
"""What stands for no label."""
COMMA = ", "
"""Between the labels of a text. No label word of a multi-label task holds it."""


def as_text(words: Iterable[str]) -> str:
    """`joy, love`; `(none)` of no words."""
    return COMMA.join(words) or NONE


def as_set(text: str) -> frozenset[str]:
    """The inverse."""
    return frozenset() if text == NONE else frozenset(text.split(COMMA))


def items_of(value: Any, separator: str) -> list[Any]:
    """The labels in a field: a list's, or those of a text with a separator between them; any other value is one."""
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        return [item for item in value.split(separator) if item.strip()]
    return [value]


def check_words(words: Sequence[str]) -> None:
    """Raise ValueError where there are no label words, or one could not be told from several, or from none."""
    if not words:
        raise ValueError("multi_label needs labels to choose from")
    for word in words:
        if COMMA in word or word == NONE:
            raise ValueError(f"label word {word!r}: with multi_label no word is {NONE}, or holds a comma and a space")

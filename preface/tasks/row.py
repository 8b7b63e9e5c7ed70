"""A row of a file: its fields, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preface.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file and where it stands; `line` is counted from 1 (its first line, if it has several)."""

    file: str
    line: int
    fields: dict[str, Any]
    unit: str = "line"
    """What `line` counts: `row` in files that have no lines."""

    @property
    def place(self) -> str:
        """`reviews.csv line 17`, as messages begin."""
        return f"{self.file} {self.unit} {self.line}"


OnBad = Callable[[str], None]
"""Called with the message of each row that cannot be read; the row is left out if it returns."""


def raise_bad(message: str) -> None:
    """The strict `OnBad`: the first bad row is an error."""
    raise UserError(message)

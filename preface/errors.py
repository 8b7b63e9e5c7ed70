"""The one exception for what a user can put right: the command line prints it as a line and exits with 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in a file, an option or a name; its text says what is wrong, where, and what would do."""


def first_line(error: BaseException) -> str:
    """Of what another library's error says; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def problem_of(error: ValidationError) -> str:
    """The first thing that pydantic complains of, with its place: `result.best: Input should be a valid integer`."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    return f"{place}: {message}" if place else message

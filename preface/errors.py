"""The one exception for what a user can put right: the command line prints it as a line and exits with 2."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a file, an option or a name; its text says what is wrong, where, and what would do."""

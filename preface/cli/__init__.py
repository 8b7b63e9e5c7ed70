"""The command line: each verb is the public function of the same name."""

from __future__ import annotations

import io
import os
import re
import sys

from typer._click.exceptions import ClickException

# each module adds its verbs to the application; `--help` lists them in this order
from preface.cli import prompts  # isort: split

from preface.cli import compare  # isort: split

from preface.cli import lists  # isort: split

from preface.cli import backbones  # isort: split

from preface.cli.app import MANY, app
from preface.errors import UserError

__all__ = ["MANY", "app", "backbones", "compare", "expand", "lists", "main", "prompts"]


def expand(arguments: list[str]) -> list[str]:
    """`--learning-rate 1e-3 1e-2` to `--learning-rate=1e-3 --learning-rate=1e-2`, for the options in `MANY`."""
    expanded: list[str] = []
    option: str | None = None
    for argument in arguments:
        is_option = re.match(r"-(?!\d)", argument) is not None and argument != "-"  # -1=negative is a value
        if is_option:
            option = argument if argument in MANY else None
        if option is None:
            expanded.append(argument)
        elif not is_option:
            expanded.append(f"{option}={argument}")
    return expanded


def main() -> None:
    """The `preface` command: a user's mistake is one line and exit code 2; Ctrl-C is 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        code = app(args=expand(sys.argv[1:]), prog_name="preface", standalone_mode=False)
    except UserError as error:
        code = _fail(2, str(error))
    except ClickException as error:
        code = _fail(2, f"{error.format_message()} (`preface --help` shows what there is)")
    except OSError as error:
        code = _fail(2, f"{error.filename or 'file'}: {error.strerror or error}")
    except Exception as error:
        if type(error).__name__ != "Interrupted":  # known by name, for its module imports torch
            raise
        code = _fail(130, str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(code: int, line: str) -> int:
    print(f"preface: {line}", file=sys.stderr)
    return code

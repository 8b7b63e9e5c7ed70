"""The command line: each verb is the public function of the same name."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from preface.errors import UserError
from preface.terminal.interrupt import Interrupted

INTERRUPTED = 130
"""The exit code after Ctrl-C, as the shell counts: 128 and the signal's number."""


def main() -> None:
    """The `preface` command: a user's mistake is one line and exit code 2; Ctrl-C is 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = _call(sys.argv[1:])
    except KeyboardInterrupt:
        code = _fail(INTERRUPTED, "interrupted")
    except Interrupted as stopped:
        code = _fail(INTERRUPTED, str(stopped))
    except UserError as error:
        code = _fail(2, str(error))
    except BrokenPipeError:  # `preface predict … | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain when it ends
        code = 1
    except OSError as error:
        code = _fail(2, f"{error.filename or 'file'}: {error.strerror or error}")
    sys.exit(code)


def _call(arguments: Sequence[str]) -> int:
    """The verb's exit code, its mistakes as UserError. What takes time to import is imported here, under `main`'s
    care for Ctrl-C."""
    from typer import TyperException

    from preface.cli.app import app

    try:
        code = app(args=list(arguments), prog_name="preface", standalone_mode=False)
    except TyperException as error:
        raise UserError(f"{error.format_message()} (`preface --help` shows what there is)") from error
    if code == INTERRUPTED:  # typer's own answer to Ctrl-C
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _fail(code: int, line: str) -> int:
    print(f"preface: {' '.join(line.split())}", file=sys.stderr)
    return code

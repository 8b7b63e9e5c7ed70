"""The command line: each verb is the public function of the same name."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from preface.errors import UserError
from preface.terminal.command import at_work
from preface.terminal.interrupt import Interrupted
from preface.terminal.launcher import is_first

INTERRUPTED = 130
"""The exit code after Ctrl-C, as the shell counts: 128 and the signal's number."""


def main() -> None:
    """The `preface` command: a user's mistake is one line and exit code 2; Ctrl-C is 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    interrupts: list[int] = []
    try:
        with _noted(interrupts):
            code = _call(sys.argv[1:])
    except Interrupted as stopped:
        # all processes of a training stop together
        code = _fail(INTERRUPTED, str(stopped)) if is_first() else INTERRUPTED
    except UserError as error:
        code = _fail(2, str(error))
    except BrokenPipeError:  # `preface predict … | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain when it ends
        code = 1
    except OSError as error:
        code = _fail(2, f"{error.filename or 'file'}: {error.strerror or error}")
    except BaseException:  # libraries turn Ctrl-C into errors of their own while they are imported
        if not interrupts:
            raise
        code = _fail(INTERRUPTED, "interrupted")
    sys.exit(code)


def _call(arguments: Sequence[str]) -> int:
    """The verb's exit code, its mistakes as UserError. What takes time to import is imported here, under `main`'s
    care for Ctrl-C."""
    from typer import TyperException

    from preface.cli.app import app

    try:
        with at_work(arguments):
            code = app(args=list(arguments), prog_name="preface", standalone_mode=False)
    except TyperException as error:
        message = error.format_message().replace(": Value error, ", ": ")
        context = getattr(error, "ctx", None)  # of a mistake in a verb's options: the verb's
        called = context.command_path if context else "preface"
        raise UserError(f"{message} (`{called} --help` shows what there is)") from error
    if code == INTERRUPTED:  # typer's own answer to Ctrl-C
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


@contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as ever, and is noted; where a parent process ignores it, so do we."""

    def press(number: int, frame: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is press:
            signal.signal(signal.SIGINT, before)


def _fail(code: int, line: str) -> int:
    print(f"preface: {' '.join(line.split())}", file=sys.stderr)
    return code

from __future__ import annotations

import subprocess
import sys

import pytest

from preface.errors import UserError
from preface.terminal.command import at_work, command_line


def seen_and_stopped(seen: list[tuple[str, ...] | None]) -> None:
    with at_work(["train", "--task", "my file.csv"]):
        seen.append(command_line())
        raise UserError("whatever")


def test_a_command_is_at_work_until_it_ends() -> None:
    seen = [command_line()]
    with pytest.raises(UserError):
        seen_and_stopped(seen)
    assert [*seen, command_line()] == [None, ("preface", "train", "--task", "my file.csv"), None]


def test_it_needs_no_torch() -> None:
    code = "import sys, preface.terminal.command; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

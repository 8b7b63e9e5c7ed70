from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from preface.errors import UserError
from preface.records.lock import locked

HOLD = (
    "import sys; from pathlib import Path; from preface.records.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_a_second_one_is_refused_and_a_kill_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is at work there"), locked(folder):
        pass
    other.kill()
    other.communicate()
    with locked(folder), pytest.raises(UserError, match="another process"), locked(folder):
        pass
    with locked(folder):
        pass

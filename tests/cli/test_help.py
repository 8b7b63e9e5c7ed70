"""What is listed without waiting for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli.conftest import preface


def test_help_has_examples() -> None:
    for verb in ("train", "evaluate", "predict"):
        done = preface(verb, "--help")
        assert done.returncode == 0
        assert f"preface {verb} " in done.stdout
        assert "Examples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--help"], {}, "compare"),
        (["--version"], {}, version("preface")),
        (["evaluate", "--help"], {}, "--skip-bad-rows"),
        (["predict", "--help"], {}, "--input"),
        (["pretrain", "--help"], {}, "--untie-embeddings"),
        ([], {"_PREFACE_COMPLETE": "complete_bash", "COMP_WORDS": "preface eva", "COMP_CWORD": "1"}, "evaluate"),
    ],
)
def test_nothing_waits_for_torch(arguments: list[str], environment: dict[str, str], says: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "preface", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert says in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "preface.cli" in loaded
    assert not loaded & {"torch", "transformers", "sklearn"}


def test_shell_completion_is_offered() -> None:
    assert "--install-completion" in preface("--help").stdout

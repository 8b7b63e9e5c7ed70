"""`predict`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import preface


def test_predict_streams_from_standard_input(run: Path) -> None:
    done = preface("predict", run, input='{"text": "a fine film"}\n{"text": "dull"}\n')
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line["probabilities"]) for line in lines] == [{"negative", "positive"}] * 2
    table = preface("predict", run, "--input", "words", input='words,more\n"a fine, fine film",1\n')
    assert len(table.stdout.splitlines()) == 1

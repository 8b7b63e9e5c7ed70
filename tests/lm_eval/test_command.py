"""`python -m preface.lm_eval`."""

from __future__ import annotations

import sys

import pytest

from preface.lm_eval import __main__ as command


def test_without_lm_eval_a_line_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "missing", lambda extra: ["lm_eval"])
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--tasks", "boolq"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "preface: lm-eval is not installed; `pip install 'preface[lm-eval]'` brings it\n"
    )

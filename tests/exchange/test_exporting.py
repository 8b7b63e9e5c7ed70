"""What is common to all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.exchange.exporting import NAMES, Format, export_prompt
from preface.methods import PromptTuning
from tests.serving.making import put

READING = [{"input": "text"}, {"encoding": "latin-1"}, {"skip_bad_rows": True}]
MODEL = [{"backbone": "nowhere"}, {"dtype": "bfloat16"}, {"device": "cuda"}]


@pytest.mark.parametrize(
    ("format", "option"),
    [("peft", option) for option in READING] + [("numpy", option) for option in READING + MODEL],
)
def test_an_option_that_would_do_nothing_is_refused(
    format: Format, option: dict[str, Any], causal: Backbone, tmp_path: Path
) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=2, init="random"))
    (name,) = option
    with pytest.raises(UserError, match=f"^{name.replace('_', '-')}: .*--format {format} .*; leave it out$"):
        export_prompt(folder, format, **option)
    assert not (folder / NAMES[format]).exists()


@pytest.mark.parametrize("format", ["numpy", "vllm"])
def test_only_an_earlier_export_is_replaced(format: Format, causal: Backbone, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=2, init="random"))
    texts, out = tmp_path / "mine.jsonl", tmp_path / "exported"
    rows = '{"text": "a text"}\n'
    texts.write_text(rows)
    how: dict[str, Any] = {"texts": texts, "backbone": causal} if format == "vllm" else {}
    with pytest.raises(UserError, match=f"mine.jsonl: is a file that is none of --format {format}, and would be lost"):
        export_prompt(folder, format, texts, **how)
    assert texts.read_text() == rows
    for _ in range(2):
        assert export_prompt(folder, format, out, **how) == out

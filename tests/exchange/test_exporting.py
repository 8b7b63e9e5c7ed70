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

"""Files and tasks for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preface.errors import UserError
from preface.tasks import Example, Task

Rows = list[dict[str, Any]]


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(count: int, name: str = "text", labels: int = 2) -> Rows:
    return [{"text": f"{name} {i}", "label": i % labels} for i in range(count)]


def task(**changes: Any) -> Task:
    definition = {
        "name": "mine",
        "source": {"files": {"parts": {"train": "train.jsonl", "test": "test.jsonl"}}},
        "fields": {"input": "text", "label": "label"},
        "labels": {"0": "bad", "1": "good", "2": None},
        "splits": {
            "train": {"part": "train"},
            "validation": {"part": "train", "size": 5},
            "test": {"part": "test"},
        },
    }
    return Task.model_validate(definition | changes)


def texts(examples: list[Example]) -> list[str]:
    return [example.text for example in examples]


def pairs(examples: list[Example]) -> list[tuple[str, str | None]]:
    return [(example.text, example.label) for example in examples]


def fails(call: Any, *given: Any, **named: Any) -> str:
    def done() -> None:
        result = call(*given, **named)
        if isinstance(result, Iterator):
            list(result)

    with pytest.raises(UserError) as caught:
        done()
    assert "\n" not in str(caught.value)
    return str(caught.value)

"""`metrics.jsonl`: what is measured in training, a line each. Resuming cuts it to what a checkpoint knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preface.records.atomic import naming

METRICS = "metrics.jsonl"


def append_metrics(folder: Path, line: dict[str, Any]) -> int:
    """Add a line; returns the file's length in bytes."""
    with naming(folder / METRICS), (folder / METRICS).open("a", encoding="utf-8") as file:
        print(json.dumps(line), file=file)
        return file.tell()


def cut_metrics(folder: Path, size: int) -> None:
    """Drop what came after the first `size` bytes."""
    with (folder / METRICS).open("a") as file:
        file.truncate(min(file.tell(), size))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]

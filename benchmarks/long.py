"""How reading and answering grow on a decoder-only model: texts of up to 4,096 pieces, up to 1,000 labels.

    python benchmarks/long.py [--dtype bfloat16] [--out long.json]

Random weights of SmolLM2-135M's shape. A text is read; one prompt of ten answers about it, with a cue of three pieces;
and labels, of three pieces each, are ranked after a text of 16. Seconds, the better of two.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from decoder_only import CUE, LENGTH, SMOLLM2, backbone
from rich.table import Table
from sides import hardware, seconds, show

from preface.backbones.base import Backbone, Context
from preface.backbones.tree import Trees
from preface.prompts import Prompts
from preface.records.results import installed_versions

TEXTS = (64, 256, 1024, 4096)
LABELS = (2, 10, 100, 1000)


@dataclass(frozen=True)
class Point:
    """One measured size."""

    what: str
    size: int
    seconds: float


def measured(frozen: Any, texts: Sequence[int], labels: Sequence[int]) -> list[Point]:
    draw = random.Random(0)

    def pieces(count: int) -> list[int]:
        return [draw.randrange(100, len(frozen.embeddings)) for _ in range(count)]

    shape = (1, frozen.layers, frozen.heads, LENGTH, frozen.head_width)
    prompts = Prompts({"answer.keys": torch.randn(shape), "answer.values": torch.randn(shape)})
    points = []
    with torch.inference_mode():
        for length in texts:
            ids, mask = frozen.pad([pieces(length)])
            points.append(Point("read a text", length, better(lambda: frozen.read(ids, mask))))  # noqa: B023
            context = frozen.read(ids, mask)
            cue = torch.tensor([CUE])
            points.append(Point("answer about it", length, better(lambda: frozen.answer(context, cue, prompts))))  # noqa: B023
        context = frozen.read(*frozen.pad([pieces(16)]))
        for count in labels:
            parts = Trees.in_parts([([pieces(3) for _ in range(count)], CUE)])
            points.append(Point("rank labels", count, better(partial(ranked, frozen, context, parts, prompts))))
    return points


def ranked(frozen: Backbone, context: Context, parts: Sequence[Trees], prompts: Prompts) -> None:
    for trees in parts:
        frozen.log_probabilities(context, trees, torch.zeros(1, dtype=torch.long), prompts)


def better(work: Any) -> float:
    return min(seconds(work) for _ in range(2))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How reading and answering grow")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="a JSON file of all numbers")
    options = parser.parse_args(argv)
    points = measured(backbone(SMOLLM2, getattr(torch, options.dtype)), TEXTS, LABELS)
    table = Table(title=f"SmolLM2-135M's shape, {options.dtype}; {hardware()}")
    for place, head in enumerate(("what", "pieces or labels", "seconds", "ms for each")):
        table.add_column(head, justify="right" if place else "left")
    for point in points:
        table.add_row(point.what, f"{point.size:,}", f"{point.seconds:.3f}", f"{1000 * point.seconds / point.size:.2f}")
    show(table)
    if options.out:
        about = {"machine": hardware(), "versions": installed_versions(), "dtype": options.dtype}
        options.out.write_text(json.dumps(about | {"points": [asdict(point) for point in points]}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How the cost of a training step grows: with prompt length, population, input length and backbone.

    python benchmarks/growth.py [--steps 3] [--out docs/results/performance]

Random weights of T5-small's shape (but in the last picture), batch 16 a prompt; inputs are encoded already where
prompts leave the encoder alone. Medians. Writes `growth.json` and `growth.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from sides import BASE, BATCH, SMALL, Ours, backbone, rows, seconds

from preface.backbones.base import Backbone
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.records.results import installed_versions

TINY = {"vocab_size": 32128, "d_model": 256, "d_kv": 64, "num_heads": 4, "num_layers": 4, "d_ff": 1024}
BACKBONES = {"16M": TINY, "small, 61M": SMALL, "base, 223M": BASE}
PANELS = ("prompt length", "population", "input length", "backbone")


@dataclass(frozen=True)
class Point:
    """One measured step."""

    panel: str
    method: str
    x: float | str
    seconds: float
    """Of one step of all members."""


def timed(frozen: Backbone, method: Method, inputs: list[list[int]], steps: int, members: int = 1) -> float:
    """Median seconds a step; the first pass encodes and warms up."""
    side = Ours(frozen, method, inputs, members)
    batches = list(side.epochs(steps, 1))
    for batch in batches:
        side(batch)
    return statistics.median(seconds(lambda batch=batch: side(batch)) for batch in batches)  # type: ignore[misc]


def decoder(length: int = 20) -> PrefixTuning:
    return PrefixTuning(length=length, sites=("decoder",))


def plan(steps: int) -> list[tuple[str, str, float | str, Any]]:
    """Panel, method, place on the axis, and the work that is timed."""
    small = backbone(SMALL)
    usual = rows(2_048, length=15)
    points: list[tuple[str, str, float | str, Any]] = []
    for length in (1, 5, 20, 50, 100, 150):
        for name, method in (
            ("decoder prefix", decoder(length)),
            ("prefix at all sites", PrefixTuning(length=length)),
            ("prompt", PromptTuning(length=length)),
        ):
            points.append((PANELS[0], name, length, lambda method=method: timed(small, method, usual, steps)))
    for members in (1, 2, 4, 8, 16, 32, 64):
        work = lambda members=members: timed(small, decoder(), usual, steps, members)  # noqa: E731
        points.append((PANELS[1], "decoder prefix", members, work))
    for length in (8, 16, 32, 64, 128, 256):
        inputs = rows(512, length=length)
        for name, method in (
            ("decoder prefix", decoder()),
            ("prefix at all sites", PrefixTuning(length=20)),
            ("prompt", PromptTuning(length=20)),
        ):
            work = lambda method=method, inputs=inputs: timed(small, method, inputs, steps)  # noqa: E731
            points.append((PANELS[2], name, length, work))
    for size, shape in BACKBONES.items():
        for name, method in (("decoder prefix", decoder()), ("prefix at all sites", PrefixTuning(length=20))):
            work = lambda method=method, shape=shape: timed(backbone(shape), method, usual, steps)  # noqa: E731
            points.append((PANELS[3], name, size, work))
    return points


def draw(points: list[Point], path: Path) -> None:
    """One panel for each way to grow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"decoder prefix": "#2f6f9f", "prefix at all sites": "#c2571a", "prompt": "#4d8b31"}
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for panel, axis in zip(PANELS, axes.flat, strict=True):
        for method, colour in colours.items():
            line = [point for point in points if point.panel == panel and point.method == method]
            if line:
                axis.plot(
                    [point.x for point in line], [point.seconds for point in line], "o-", color=colour, label=method
                )
        axis.set_title({"prompt length": "virtual tokens", "population": "prompts side by side"}.get(panel, panel))
        axis.set_ylabel("seconds a step")
        if panel in ("population", "input length"):
            axis.set_xscale("log", base=2)
            ticks = sorted({point.x for point in points if point.panel == panel})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the cost of a step grows")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/performance"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    console = Console(stderr=True)
    for panel, method, x, work in track(
        plan(options.steps), "measuring", console=console, disable=not console.is_terminal
    ):
        points.append(Point(panel, method, x, work()))
    record = {
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
        "points": [asdict(point) for point in points],
    }
    (options.out / "growth.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(points, options.out / "growth.png")
    for point in points:
        print(f"{point.panel:14s} {point.method:20s} {point.x!s:>12s} {point.seconds:8.3f} s")


if __name__ == "__main__":
    main()

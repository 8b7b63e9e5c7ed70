"""What 8 and 4 bits cost and save: the same prompts, trained with the backbone as it is, on it and on it quantised.

    python benchmarks/quantized.py RUN --on sst2 --data DIR

A line each: megabytes of the weights (with embeddings), zero-shot accuracy, the mean of the run's prompts at its best
rate, each of them, and milliseconds a text to read it and answer under all of these.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import preface
from preface.backbones.base import Backbone
from preface.backbones.frozen import FrozenLinear
from preface.backbones.load import load_backbone
from preface.backbones.quantized import KINDS
from preface.records.run import Run


def megabytes(backbone: Backbone) -> float:
    """Of all weights as they are held; what a CPU lays out for its products beside is not counted."""
    for module in backbone.model.modules():
        if isinstance(module, FrozenLinear):
            module.unpack()
    held: dict[int, Any] = {}
    for tensor in (*backbone.model.parameters(), *backbone.model.buffers()):
        held[tensor.data_ptr()] = tensor
        if (state := getattr(tensor, "quant_state", None)) is not None:
            held[state.absmax.data_ptr()] = state.absmax
    return sum(tensor.nbytes for tensor in held.values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--on", default="sst2")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--instruction", default="sentiment: {text}", help="Of zero-shot answers.")
    options = parser.parse_args()
    name = Run(options.run).record.backbone
    print("backbone | MB | zero-shot | prompts | by prompt | ms a text", flush=True)
    for known_as in (name, *(f"{name}@{kind}" for kind in KINDS)):
        backbone = load_backbone(known_as, dtype="float32")
        size = megabytes(backbone)
        shared: dict[str, Any] = {"backbone": backbone, "data": options.data}
        with tempfile.TemporaryDirectory() as folder:
            (bare,) = preface.evaluate(None, [options.on], instruction=options.instruction, out=folder, **shared)
            began = time.monotonic()
            cells = preface.evaluate(options.run, [options.on], out=folder, **shared)
            milliseconds = 1000 * (time.monotonic() - began) / bare.n
        right = [100 * cell.value for cell in cells]
        each = " ".join(f"{own:.1f}" for own in right)
        mean = statistics.fmean(right)
        print(
            f"{known_as} | {size:.0f} | {100 * bare.value:.1f} | {mean:.1f} | {each} | {milliseconds:.0f}", flush=True
        )


if __name__ == "__main__":
    main()

"""Tokens a second in pre-training, ours beside a plain Transformers `Trainer` on the same work.

    python benchmarks/pretrain.py [--steps 6] [--rounds 5] [--architecture 11m] [--batch-size 96] [--device cpu]

Span corruption of random tokens packed to 128, vocabulary 16,384, random weights of the shape. The `Trainer` gets
the same corruption from its collator, its default optimizer (fused AdamW) and no evaluation, logging or saving; where
the device multiplies bfloat16 it is measured with `bf16=True` (autocast) and with all its weights in bfloat16 as well.
Rounds alternate between the sides; medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, T5ForConditionalGeneration, Trainer, TrainingArguments

from preface.backbones.frozen import fuse_gelu
from preface.backbones.load import EMBEDDED, device_named, dtype_named
from preface.pretraining.architecture import load_architecture
from preface.pretraining.building import plain_pieces
from preface.pretraining.mixture import Mixture, SpanCorruption, sentinels
from preface.pretraining.objectives import noise_mask, span_corruption, span_lengths
from preface.pretraining.settings import Settings
from preface.pretraining.weights import Losses, Machine, Weights
from preface.records.results import installed_versions

LENGTH = 128
TOKENIZER = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
TEXT = np.random.default_rng(0).integers(3, 16000, 4_000_000).astype(np.uint16)


def model(name: str) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return load_architecture(name).build(TOKENIZER)


def ours(architecture: str, batch_size: int, device: torch.device, dtype: torch.dtype) -> Callable[[int], float]:
    """Seconds of so many steps of our loop: batches, forward, backward, clipping, optimizer."""
    settings = Settings(objectives={"span-corruption": 1}, batch_size=batch_size, steps=10**6, input_length=LENGTH)
    mixture = Mixture({"span-corruption": SpanCorruption(TEXT, TOKENIZER, LENGTH, 0)}, {"span-corruption": 1}, 0)
    network = model(architecture)
    fuse_gelu(network)
    machine = Machine(Accelerator(cpu=device.type == "cpu"), device, dtype)
    weights = Weights(Losses(network, plain_pieces(TOKENIZER, len(TOKENIZER))), settings, mixture, machine)
    numbers = itertools.count()

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            weights.step(next(numbers), 0.1)
        _finish(device)
        return time.perf_counter() - began

    return run


def trainer(architecture: str, batch_size: int, device: torch.device, **arguments: Any) -> Callable[[int], float]:
    """Seconds of so many steps of a `Trainer`; `weights="bfloat16"` puts all its weights into bfloat16."""
    lengths, names = span_lengths(LENGTH), sentinels(TOKENIZER)
    generator = np.random.default_rng(0)
    chunks = TEXT[: len(TEXT) // lengths.raw * lengths.raw].reshape(-1, lengths.raw).astype(np.int64)

    def collate(rows: list[np.ndarray]) -> dict[str, torch.Tensor]:
        inputs, labels = span_corruption(np.stack(rows), noise_mask(generator, len(rows), lengths), names, 1)
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}

    network = model(architecture)
    if arguments.pop("weights", None) == "bfloat16":
        network.to(torch.bfloat16)

    def run(steps: int) -> float:
        options = TrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch_size, max_steps=steps, report_to="none",
            save_strategy="no", logging_strategy="no", remove_unused_columns=False, disable_tqdm=True,
            use_cpu=device.type == "cpu", **arguments,
        )  # fmt: skip
        work = Trainer(network, options, data_collator=collate, train_dataset=chunks)  # type: ignore[arg-type]
        work._move_model_to_device(network, device)
        began = time.perf_counter()
        work.train()
        _finish(device)
        return time.perf_counter() - began

    return run


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="11m")
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    device = device_named(options.device)
    dtype = dtype_named("auto", device)
    work = (options.architecture, options.batch_size, device)
    sides = {f"Preface, {str(dtype).removeprefix('torch.')}": ours(*work, dtype), "Trainer, float32": trainer(*work)}
    if dtype == torch.bfloat16:
        sides["Trainer, autocast"] = trainer(*work, bf16=True)
        sides["Trainer, bfloat16 weights"] = trainer(*work, weights="bfloat16")
    for run in sides.values():
        run(2)  # compiling and warming up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            seconds[name].append(run(options.steps) / options.steps)
    tokens = options.batch_size * LENGTH
    speeds = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    first = next(iter(speeds))
    table = Table(title=f"{options.architecture}, {options.batch_size} × {LENGTH} tokens a step, {device}")
    for column in ("side", "seconds a step", "tokens a second", f"{first.split(',')[0]} is faster by"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, speed in speeds.items():
        table.add_row(name, f"{tokens / speed:.3f}", f"{speed:,.0f}", f"{speeds[first] / speed:.2f} ×")
    Console().print(table)
    if options.out:
        hardware = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
        record = {"seconds": seconds, "tokens_per_second": speeds, "threads": torch.get_num_threads()}
        record |= {"hardware": hardware, "versions": installed_versions(), "arguments": vars(options) | {"out": None}}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

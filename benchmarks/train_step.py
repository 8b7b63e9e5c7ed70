"""Seconds a training step, ours beside PEFT's: the same frozen model, rows, batch and number of virtual tokens.

    python benchmarks/train_step.py [--steps 10] [--rounds 5]

Random weights of T5-small's shape, inputs of SST-2-like lengths, batch 16. PEFT pads to the longest row of a batch as
its users' collators do and runs in float32 with scaled-dot-product attention. Rounds alternate between the sides; the
medians are printed. (PEFT's prefix tuning trains the decoder's self-attention alone; nobody else has the other sites.)
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from preface import attention, batching
from preface.backbone import EMBEDDED, Backbone
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.population import member_losses

BATCH = 16
SHAPE = T5Config(
    vocab_size=32128, d_model=512, d_kv=64, num_heads=8, num_layers=6, num_decoder_layers=6, d_ff=2048,
    decoder_start_token_id=0, dropout_rate=0.0,
)  # fmt: skip


def rows(count: int) -> list[list[int]]:
    """Inputs with lengths like SST-2's training phrases: short ones are many, the mean is about 13 pieces."""
    draw = random.Random(0)
    return [[draw.randrange(100, 30000) for _ in range(min(60, 3 + int(draw.expovariate(0.1))))] for _ in range(count)]


def model(name: str) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration._from_config(SHAPE, attn_implementation=name, dtype=torch.float32)


def ours(method: Method, inputs: list[list[int]], members: int = 1) -> Callable[[], None]:
    """One step of a population of `members`."""
    attention.register()
    backbone = Backbone("random", model(attention.NAME), AutoTokenizer.from_pretrained(EMBEDDED / "nano"))
    bank = method.build(backbone, Initializer.parse("random"), range(members))
    optimizer = torch.optim.AdamW(bank.parameters())
    orders = [batching.endless([len(ids) for ids in inputs], seed, BATCH) for seed in range(members)]

    def step() -> None:
        batches = [next(order) for order in orders]
        worn = torch.tensor([member for member, batch in enumerate(batches) for _ in batch])
        ids, mask = backbone.pad([inputs[index] for batch in batches for index in batch])
        labels = torch.tensor([[1465, 1]] * len(ids))
        with backbone.training():
            logits = backbone.forward(ids, mask, labels, bank.injection().on(worn))
            member_losses(logits, labels, worn, members).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft(kind: str, length: int, inputs: list[list[int]]) -> Callable[[], None]:
    """One step of PEFT's prompt or prefix tuning."""
    import peft

    config = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}[kind](
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length
    )
    if kind == "prompt":
        config.num_transformer_submodules = 1
    wrapped = peft.get_peft_model(model("sdpa"), config).train()
    optimizer = torch.optim.AdamW(parameter for parameter in wrapped.parameters() if parameter.requires_grad)
    shuffled = random.Random(0)

    def step() -> None:
        chosen = shuffled.sample(inputs, BATCH)
        longest = max(map(len, chosen))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in chosen])
        labels = torch.tensor([[1465, 1]] * BATCH)
        wrapped(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(sides: list[Callable[[], None]], steps: int, rounds: int) -> list[float]:
    """Median seconds a step of each side, rounds alternating."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(rounds):
        for side, seconds in zip(sides, times, strict=True):
            began = time.perf_counter()
            for _ in range(steps):
                side()
            seconds.append((time.perf_counter() - began) / steps)
    return [statistics.median(seconds) for seconds in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=(Path(__file__).name))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    inputs = rows(2000)
    decoder = PrefixTuning(length=20, sites=("decoder",))
    every_site = PrefixTuning(length=20)
    comparisons = {
        "prefix of 20, decoder": (ours(decoder, inputs), peft("prefix", 20, inputs), 1),
        "prefix of 20, all sites (PEFT: decoder)": (ours(every_site, inputs), peft("prefix", 20, inputs), 1),
        "prompt of 100": (ours(PromptTuning(length=100), inputs), peft("prompt", 100, inputs), 1),
        "eight prefixes of 20, decoder (PEFT: one after another)": (
            ours(decoder, inputs, members=8),
            peft("prefix", 20, inputs),
            8,
        ),
    }
    table = Table(
        title=f"seconds a step, batch {BATCH} a prompt, T5-small's shape, float32, {torch.get_num_threads()} threads"
    )
    for name in ("", "Preface", "PEFT", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    for name, (mine, theirs, runs) in comparisons.items():
        own, other = measure([mine, theirs], options.steps, options.rounds)
        table.add_row(name, f"{own:.3f}", f"{other * runs:.3f}", f"{other * runs / own:.1f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()

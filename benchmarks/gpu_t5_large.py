"""What a prompt for T5-large costs on one GPU, Preface beside PEFT.

    python benchmarks/gpu_t5_large.py [--steps 200] [--warmup 20] [--rows 67349] [--out gpu.json]
    python benchmarks/gpu_t5_large.py --shape tiny --device cpu --steps 3 --warmup 1 --rows 64

The job is 21,000 steps of batch 16: five epochs of SST-2's 67,349 training inputs. Weights and pieces are random, the
lengths are SST-2's. Some steps of each method are timed and the whole job is projected from them; a method that leaves
the encoder alone pays for encoding every input once, at the rate measured on a sample, and then steps on kept states.
PEFT runs in float32, in bfloat16 autocast and in bfloat16 weights, each eager and with scaled-dot-product attention;
its best is the fastest of the six. Preface runs in the type that `preface train` chooses: on a GPU bfloat16 weights
under float32 prompts. Before anything is timed, both sides must give the same loss to the same prompt, or the program
ends with code 1.

Nothing here has been verified on a GPU by its authors yet: only the tiny shape on a CPU has been run. On a CPU the peak
memory is that of the process so far, not of a line; and where bfloat16 is emulated, small products may beat the large
one that the floor is measured by.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import peft
import torch
from rich.table import Table
from sides import BATCH, SHAPES, TARGET, Ours, Peft, backbone, hardware, rows, seconds, show
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.batching import answers_of
from preface.backbones.contexts import Inputs
from preface.backbones.load import dtype_name, dtype_named
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.prompts import Prompts
from preface.records.results import installed_versions

Kind = Literal["prefix", "prompt"]
INPUTS = 67_349
"""Of the whole job."""
STEPS = 21_000
"""Of the whole job: five epochs in batches of 16."""
DRAWN = 10_240
"""Inputs that PEFT's batches are drawn from; more of them would only slow the draw."""
LENGTHS: dict[Kind, int] = {"prefix": 20, "prompt": 100}
"""Virtual tokens."""
OURS: list[tuple[str, Kind, Method, int]] = [
    ("decoder prefix of 20, states kept", "prefix", PrefixTuning(length=20, sites=("decoder",)), 1),
    ("prefix of 20 at all sites", "prefix", PrefixTuning(length=20), 1),
    ("prompt of 100", "prompt", PromptTuning(length=100), 1),
    ("eight decoder prefixes of 20, states kept", "prefix", PrefixTuning(length=20, sites=("decoder",)), 8),
]
"""What it is called, which of PEFT's methods it stands beside, the method, and how many prompts are trained at once."""
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 autocast": {"autocast": True},
    "bfloat16 weights": {"dtype": torch.bfloat16},
}
"""PEFT's."""
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""How far apart, relatively, two losses of the same prompt may lie."""


@dataclass(frozen=True)
class Measured:
    """One method on one side."""

    what: str
    side: Literal["Preface", "PEFT"]
    kind: Kind
    """Which of PEFT's methods it stands beside."""
    dtype: str
    prompts: int
    """Trained at once; PEFT would need as many runs."""
    step_seconds: float
    encoding_seconds: float | None
    """All inputs of the job, once; None where each step encodes its own."""
    peak_bytes: int
    operations: float
    """That a step must spend (`operations`)."""
    rate: float
    """Operations a second of a large matrix product in the same type."""

    @property
    def job_seconds(self) -> float:
        """The whole job, projected."""
        return STEPS * self.step_seconds + (self.encoding_seconds or 0.0)

    @property
    def floor_share(self) -> float:
        """Of a step's time, what its operations would take at the rate of a large matrix product."""
        return self.operations / self.rate / self.step_seconds


def operations(shape: dict[str, int], positions: int, tokens: float, passes: Literal[0, 1, 2]) -> float:
    """Operations, additions and multiplications, that a T5 of frozen weights must spend on one training step.

    Each parameter costs two operations for each position that goes through it, and two more where the gradient goes
    back; the weights' own gradients are not wanted. Softmax, norms, the products of queries with keys, padding, and the
    encoder's states through the cross-attention's keys and values (`products.Projected`) are left out,
    so this is a floor: of the arithmetic alone, not of reading the weights from memory, which small batches wait for.

    Args:
        shape: T5's sizes, as in `sides.SHAPES`; a feed-forward layer has two matrices.
        positions: decoder inputs of all rows.
        tokens: encoder inputs of all rows, virtual ones included.
        passes: through the encoder: 0 with kept states, 1 forward, 2 with the gradient back through it.
    """
    attention = 4 * shape["d_model"] * shape["num_heads"] * shape["d_kv"]
    feed_forward = 2 * shape["d_model"] * shape["d_ff"]
    encoder = shape["num_layers"] * (attention + feed_forward)
    decoder = shape["num_layers"] * (2 * attention + feed_forward)
    vocabulary = shape["d_model"] * shape["vocab_size"]
    return 2.0 * (passes * tokens * encoder + 2 * positions * (decoder + vocabulary))


def step_operations(shape: dict[str, int], prompts: Prompts, length: float, kept: bool) -> float:
    """The `operations` of a step under some prompts, a batch for each, of inputs of a mean `length`."""
    size = BATCH * prompts.size
    virtual = 0 if prompts.embeddings is None else prompts.embeddings.shape[1]
    passes: Literal[0, 1, 2] = 0 if kept else 1 if prompts.leaves_reading else 2
    return operations(shape, size * len(TARGET), size * (length + virtual), passes)


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of a large square matrix product."""
    size, times = (8192, 20) if device == "cuda" else (512, 3)
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    work = repeated(lambda: left @ right, times)
    work()
    return 2.0 * size**3 * times / seconds(work, device)


def repeated(work: Callable[[], Any], times: int) -> Callable[[], None]:
    """The same work several times; nothing waits for the device in between."""

    def several() -> None:
        for _ in range(times):
            work()

    return several


def step_seconds(step: Callable[[], Any], steps: int, warmup: int, device: str) -> float:
    """The mean of some steps, after some that do not count."""
    repeated(step, warmup)()
    return seconds(repeated(step, steps), device) / steps


def encoding_seconds(inputs: Inputs, device: str) -> float:
    """Seconds to encode one input, all of them encoded anew in the blocks that a training encodes."""
    inputs.backbone.kept.clear()
    fresh = Inputs(inputs.backbone, inputs.ids, keep=True)
    return seconds(lambda: encode(fresh), device) / len(fresh)


def encode(inputs: Inputs) -> None:
    """All of them, in the blocks in which they are kept."""
    for block in inputs.kept.blocks if inputs.kept is not None else []:
        inputs.read(block)


def forget(device: str) -> None:
    """Free what the last measurement held, and begin a new peak."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int:
    """Since `forget` on a GPU; of the whole process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()  # what recorded steps keep for themselves is in no tensor
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prefix_of_table(table: Tensor, layers: int, heads: int) -> Prompts:
    """The decoder prefix that PEFT makes of its table `[n, layers * 2 * d_model]`.

    PEFT cuts a row into 2 · layers slices, lays the whole beside itself (once for each of two stacks) and hands four
    slices to each decoder layer, of which the last two, for the cross-attention, are dropped. So layer i reads slices
    4i and 4i + 1, counted round: with an even number of layers half of the table is never read, and the other half
    serves two layers each.
    """
    slices = table.view(len(table), layers * 2, heads, -1).permute(1, 2, 0, 3)  # [2L, H, n, e]
    places = torch.arange(layers) * 4 % (2 * layers)
    return Prompts.one({"decoder.keys": slices[places], "decoder.values": slices[places + 1]})


def prompts_of(peer: Peft, kind: Kind, shape: dict[str, int]) -> Prompts:
    """PEFT's own prompt, float32, as Preface takes it."""
    table = peer.model.prompt_encoder["default"].embedding.weight.detach()
    if kind == "prompt":
        return Prompts.one({"embeddings": table})
    return prefix_of_table(table, shape["num_layers"], shape["num_heads"])


@torch.no_grad()
def both_losses(
    frozen: Backbone, kind: Kind, inputs: Sequence[Sequence[int]], shape: dict[str, int], device: str
) -> tuple[float, float]:
    """The mean loss of one batch under PEFT's initial prompt: Preface's, and PEFT's in the same type."""
    peer = Peft(kind, LENGTHS[kind], inputs, shape, dtype=frozen.dtype, device=device)
    prompts = prompts_of(peer, kind, shape)
    answers, labels = answers_of([TARGET] * len(inputs), frozen.lead_in(""))
    theirs = peer.model(**peer.padded(inputs), labels=labels.to(device)).loss
    context = frozen.read(*frozen.pad(inputs), prompts)
    return float(frozen.losses(context, answers, labels, prompts).mean()), float(theirs)


def disagreement(shape: dict[str, int], inputs: Sequence[Sequence[int]], device: str) -> str | None:
    """Where the two sides give different losses to the same prompt and batch; None: nowhere."""
    for dtype, allowed in ALLOWED.items():
        frozen = backbone(shape, dtype, device)
        for kind in LENGTHS:
            ours, theirs = both_losses(frozen, kind, inputs, shape, device)
            apart = abs(ours - theirs) / abs(theirs)
            if not apart <= allowed:  # NaN is no agreement either
                return (
                    f"the losses disagree: {kind} in {dtype_name(dtype)}, Preface {ours:.6g}, PEFT {theirs:.6g}, "
                    f"{apart:.1e} apart where {allowed:.0e} is allowed"
                )
    return None


@dataclass(frozen=True)
class Job:
    """What both sides are measured on."""

    shape: dict[str, int]
    inputs: list[list[int]]
    device: str
    steps: int
    """That are timed."""
    warmup: int
    rates: dict[torch.dtype, float]
    """`product_rate`."""
    capture: bool
    """Launch each of our steps as a whole (`Step`)."""

    @property
    def length(self) -> float:
        """Mean pieces of an input."""
        return mean(map(len, self.inputs))

    def peft(self, kind: Kind, precision: str, attn: str) -> Measured:
        """PEFT in one of its settings."""
        forget(self.device)
        setting = PRECISIONS[precision]
        peer = Peft(kind, LENGTHS[kind], self.inputs[:DRAWN], self.shape, attn, device=self.device, **setting)
        name = "decoder prefix of 20" if kind == "prefix" else "prompt of 100"
        return Measured(
            what=f"{name}, {attn}",
            side="PEFT",
            kind=kind,
            dtype=precision,
            prompts=1,
            step_seconds=step_seconds(peer, self.steps, self.warmup, self.device),
            encoding_seconds=None,
            peak_bytes=peak_bytes(self.device),
            operations=step_operations(self.shape, prompts_of(peer, kind, self.shape), self.length, kept=False),
            rate=self.rates[torch.float32 if precision == "float32" else torch.bfloat16],
        )

    def ours(self, frozen: Backbone, what: str, kind: Kind, method: Method, prompts: int) -> Measured:
        """Preface on a population of prompts."""
        frozen.kept.clear()  # or the last side's states would count in this peak
        forget(self.device)
        side = Ours(frozen, method, self.inputs, prompts, self.capture)
        # three times through is the warmup, in which a captured step of each shape is seen, recorded and checked
        batches = list(side.epochs(self.warmup + self.steps, 4))  # [steps][prompts][rows]
        encoding = None
        if side.inputs.kept is not None:
            encode(side.inputs)  # warm, and all that the steps will read
            encoding = INPUTS * encoding_seconds(side.inputs, self.device)
            frozen.kept.clear()
            forget(self.device)  # the peak is that of the steps
        following = iter(batches)
        with torch.no_grad():
            made = side.train.module()
        return Measured(
            what=what,
            side="Preface",
            kind=kind,
            dtype=f"{dtype_name(frozen.dtype)} weights",
            prompts=prompts,
            step_seconds=step_seconds(lambda: side(next(following)), self.steps, len(batches) * 3 // 4, self.device),
            encoding_seconds=encoding,
            peak_bytes=peak_bytes(self.device),
            operations=step_operations(self.shape, made, self.length, kept=encoding is not None),
            rate=self.rates[frozen.dtype],
        )

    def measures(self) -> Iterator[Measured]:
        """PEFT's settings, then ours."""
        for kind, precision, attn in product(LENGTHS, PRECISIONS, ("eager", "sdpa")):
            yield self.peft(kind, precision, attn)
        forget(self.device)
        frozen = backbone(self.shape, dtype_named("auto", torch.device(self.device)), self.device)
        for what, kind, method, prompts in OURS:
            yield self.ours(frozen, what, kind, method, prompts)


def ratio(item: Measured, measures: Sequence[Measured]) -> float:
    """How many times the job's time PEFT's best takes for as many prompts, one run each."""
    theirs = min(other.job_seconds for other in measures if other.side == "PEFT" and other.kind == item.kind)
    return theirs * item.prompts / item.job_seconds


def records(measures: Sequence[Measured], about: dict[str, Any]) -> list[dict[str, Any]]:
    """All numbers, each line with what they were measured `about`: hardware, versions, sizes."""
    return [
        asdict(item)
        | {
            "job_seconds": item.job_seconds,
            "ratio_to_peft_best": ratio(item, measures),
            "floor_share": item.floor_share,
        }
        | about
        for item in measures
    ]


def clock(duration: float) -> str:
    """Seconds as mm:ss."""
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes:02d}:{rest:02d}"


def table(measures: Sequence[Measured], title: str) -> Table:
    """What is shown at the end."""
    made = Table(title=title)
    heads = ["", "what", "dtype", "seconds a step", "whole job", "× PEFT's best", "peak memory, MB", "share of floor"]
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place < 3 else "right")
    for item in measures:
        made.add_row(
            item.side,
            item.what,
            item.dtype,
            f"{item.step_seconds:.4f}",
            clock(item.job_seconds),
            f"{ratio(item, measures):.2f}",
            f"{item.peak_bytes / 1e6:,.0f}",
            f"{item.floor_share:.1%}",
        )
    return made


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A prompt for T5-large on one GPU, Preface beside PEFT")
    parser.add_argument("--shape", choices=SHAPES, default="t5-large")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if cuda else "cpu")
    parser.add_argument("--steps", type=int, default=200, help="that are timed")
    parser.add_argument("--warmup", type=int, default=20, help="steps before them")
    parser.add_argument("--rows", type=int, default=INPUTS, help="inputs that batches are cut of")
    parser.add_argument("--capture", action="store_true", help="launch each of our steps as a CUDA graph")
    parser.add_argument("--out", type=Path, help="a JSON file of all numbers")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not cuda:
        parser.error("--device cuda: no GPU here")
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps must be at least 1, --warmup at least 0")
    needed = BATCH * (options.steps + options.warmup)
    if options.rows < needed:
        parser.error(f"--rows {options.rows}: so many steps in batches of {BATCH} need at least {needed}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    shape = SHAPES[options.shape]
    inputs = rows(options.rows, min(30_000, shape["vocab_size"]))
    if found := disagreement(shape, inputs[:BATCH], options.device):
        raise SystemExit(found)  # code 1
    rates = {dtype: product_rate(dtype, options.device) for dtype in ALLOWED}
    job = Job(shape, inputs, options.device, options.steps, options.warmup, rates, options.capture)
    about = {
        "hardware": hardware(options.device),
        "versions": installed_versions() | {"peft": peft.__version__, "cuda": torch.version.cuda},
        "shape": options.shape,
        "batch": BATCH,
        "rows": options.rows,
        "steps": options.steps,
        "warmup": options.warmup,
        "capture": options.capture,
    }
    measures: list[Measured] = []
    for item in job.measures():
        measures.append(item)
        print(f"{item.side}, {item.what}, {item.dtype}: {item.step_seconds:.4f} s a step", file=sys.stderr, flush=True)
        if options.out:  # nothing measured is lost
            options.out.write_text(json.dumps(records(measures, about), indent=1) + "\n")
    title = f"{options.shape}, batch {BATCH}, {STEPS:,} steps projected from {options.steps}; {about['hardware']}"
    show(table(measures, title))


if __name__ == "__main__":
    main()

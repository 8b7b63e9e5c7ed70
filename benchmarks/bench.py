"""What Preface promises to be faster at, measured here and now beside PEFT.

    python benchmarks/bench.py [--runs 5] [--steps 6] [--only NAME …] [--out results]

Random weights of T5-small's shape, SST-2's lengths, batch 16 a prompt, both sides in one process, runs alternating,
medians. PEFT runs at its best setting here: of float32, bfloat16 autocast and bfloat16 weights, eager or
scaled-dot-product attention, the fastest; where the processor has no bfloat16 products that is float32, and the others
are not run (one step would take half a minute). Writes `bench.json`, `bench.md` and `bench.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from preface.labelling.score import LabelWords, score
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sides import BATCH, SMALL, Ours, Peft, backbone, hardware, rows, seconds, show
from torch.profiler import ProfilerActivity, profile

from preface.backbones.load import bfloat16_is_fast
from preface.methods import PrefixTuning, PromptTuning
from preface.prompts import Injection
from preface.records.results import installed_versions

HERE = Path(__file__).parent
EPOCHS = 5
DECODER = PrefixTuning(length=20, sites=("decoder",))
EVERYWHERE = PrefixTuning(length=20)
PROMPT = PromptTuning(length=100)


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    measure: str
    ours: float
    peer: float | None
    unit: str
    ratio: float
    """How many times the peer's time or memory ours is below it; for `share` and `seconds` the number itself."""
    target: float
    beyond: float
    reached: bool
    runs: dict[str, list[float]]
    versions: dict[str, str]
    machine: str
    note: str = ""


class Bench:
    """Both sides, made once and measured in alternation."""

    def __init__(self, runs: int, steps: int) -> None:
        self.runs, self.steps = runs, steps
        self.inputs = rows(10_240)
        self.frozen = backbone(SMALL)
        self.best: dict[str, Peft] = {}

    def peft(self, kind: str) -> Peft:
        """PEFT at its best setting on this machine."""
        if kind not in self.best:
            settings: list[dict[str, Any]] = [{"attn": "sdpa"}, {"attn": "eager"}]
            if bfloat16_is_fast(torch.device("cpu")):
                settings += [{**setting, "dtype": torch.bfloat16} for setting in settings[:2]]
                settings += [{**setting, "autocast": True} for setting in settings[:2]]
            sides = [Peft(kind, 20 if kind == "prefix" else 100, self.inputs, SMALL, **setting) for setting in settings]
            for side in sides:
                side()
            times = [median(seconds(side) for _ in range(4)) for side in sides]
            self.best[kind] = sides[times.index(min(times))]
        return self.best[kind]

    def alternate(self, ours: Callable[[], Any], peer: Callable[[], Any]) -> dict[str, list[float]]:
        """Seconds of each run of both sides."""
        ours(), peer()
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(self.runs):
            times["ours"].append(seconds(ours))
            times["peer"].append(seconds(peer))
        return times

    def training(self, method: Any, members: int = 1, epochs: int = EPOCHS) -> Callable[[], None]:
        """Five epochs from nothing: encoder passes are included."""

        def work() -> None:
            side = Ours(self.frozen, method, self.inputs, members)
            for batches in side.epochs(self.steps, epochs):
                side(batches)

        return work

    def against_peft(self, name: str, method: Any, kind: str, target: float, beyond: float) -> Measure:
        """Five epochs of ours; PEFT's epochs are all alike, so one is run and counted five times."""
        peer = self.peft(kind)
        epochs = EPOCHS if method is DECODER else 1
        times = self.alternate(self.training(method, epochs=epochs), lambda: [peer() for _ in range(self.steps)])
        times["ours"] = [time / (epochs * self.steps) for time in times["ours"]]
        times["peer"] = [time / self.steps for time in times["peer"]]
        return ratio(name, times, "s a step", target, beyond)

    def decoder_prefix(self) -> list[Measure]:
        best = self.against_peft("decoder prefix of 20, five epochs, PEFT at its best", DECODER, "prefix", 5, 8)
        note = "PEFT at its best is float32 here" if not bfloat16_is_fast(torch.device("cpu")) else ""
        if note:
            installed = ratio(
                "decoder prefix of 20, five epochs, PEFT as installed (float32)", best.runs, best.unit, 9, 15, note
            )
            return [best, installed]
        default = Peft("prefix", 20, self.inputs, SMALL)
        times = self.alternate(self.training(DECODER), lambda: [default() for _ in range(self.steps)])
        times = {
            "ours": [t / EPOCHS / self.steps for t in times["ours"]],
            "peer": [t / self.steps for t in times["peer"]],
        }
        return [best, ratio("decoder prefix of 20, five epochs, PEFT as installed (float32)", times, "s a step", 9, 15)]

    def prompt(self) -> list[Measure]:
        return [self.against_peft("prompt of 100, PEFT at its best", PROMPT, "prompt", 2.5, 4)]

    def every_site(self) -> list[Measure]:
        name = "prefix of 20 at all sites, PEFT's decoder prefix at its best"
        return [self.against_peft(name, EVERYWHERE, "prefix", 1.5, 2.5)]

    def population(self) -> list[Measure]:
        """Eight prompts with orders of their own, against eight runs of PEFT's and one of ours."""
        peer = self.peft("prefix")
        times = self.alternate(self.training(DECODER, 8), lambda: [peer() for _ in range(self.steps)])
        times["ours"] = [time / (EPOCHS * self.steps) for time in times["ours"]]
        eight = {"ours": times["ours"], "peer": [8 * time / self.steps for time in times["peer"]]}
        own = self.alternate(self.training(DECODER), lambda: None)["ours"]
        alone = [time / (EPOCHS * self.steps) for time in own]
        return [
            ratio("eight decoder prefixes as one population, eight PEFT runs", eight, "s a step", 20, 40),
            number("… its time over that of one run of ours", median(times["ours"]) / median(alone), "×", 2.5, 1.5),
        ]

    def scoring(self, count: int = 3000, theirs_of_them: int = 600) -> list[Measure]:
        """Label words ranked for `count` rows, so many that neighbours by length are as alike as among 10,000; PEFT's
        `generate` for some of them, in their order, where each row costs the same."""
        peer, inputs = self.peft("prefix"), self.inputs[:count]
        labels = LabelWords(("positive", "negative"), ((1465, 1), (2841, 1)))
        bank = Ours(self.frozen, DECODER, inputs).train.bank

        def ours() -> None:
            with torch.no_grad():
                injection: Injection = bank.injection()
            score(self.frozen, inputs, labels, injection)

        def theirs(batch: int) -> Callable[[], None]:
            def work() -> None:
                peer.model.eval()
                with torch.inference_mode():
                    for start in range(0, theirs_of_them, batch):
                        padded = peer.padded(inputs[start : min(start + batch, theirs_of_them)])
                        peer.model.generate(**padded, max_new_tokens=2, do_sample=False)
                peer.model.train()

            return work

        sizes = {batch: seconds(theirs(batch)) for batch in (16, 64)}
        best = min(sizes, key=lambda batch: sizes[batch])
        times = self.alternate(ours, theirs(best))
        measured = {"ours": count, "peer": theirs_of_them}
        scaled = {side: [time * 10_000 / measured[side] for time in values] for side, values in times.items()}
        note = f"{count} and {theirs_of_them} rows measured, given for 10,000; PEFT's batch {best}"
        return [ratio("scoring 10,000 rows by label words, PEFT's generate", scaled, "s", 4, 8, note)]

    def products(self) -> list[Measure]:
        """The share of a prompt-tuning step that is spent in matrix products."""
        side = Ours(self.frozen, PROMPT, self.inputs)
        steps = list(side.epochs(4, 1))
        side(steps[0])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for batches in steps[1:]:
                side(batches)
        own = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
        share = sum(own.get(name, 0.0) for name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm_")) / sum(
            own.values()
        )
        return [number("share of matrix products, prompt of 100", share, "share", 0.75, 0.85)]

    def memory(self) -> list[Measure]:
        """Peak resident memory of three steps at T5-base's shape, each side in a process of its own."""
        peaks = {side: [peak(side) for _ in range(min(3, self.runs))] for side in ("ours", "peer")}
        share = median(peaks["ours"]) / median(peaks["peer"])
        return [
            Measure(
                "peak memory, decoder prefix at T5-base's shape", median(peaks["ours"]), median(peaks["peer"]), "MB",
                share, 0.6, 0.4, share <= 0.6, peaks, *here(), "both in float32; the weights alone are 892 MB",
            )
        ]  # fmt: skip

    def start(self) -> list[Measure]:
        """From the command to the first training step on the embedded backbone."""
        times = [first_step() for _ in range(min(3, self.runs))]
        return [number("from the command to the first training step, warm disk", median(times), "s", 4, 2)]


def peak(side: str) -> float:
    """MB."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench; bench.three_steps({side!r})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def three_steps(side: str) -> None:
    """Prints this process's peak resident memory in MB."""
    from sides import BASE

    inputs = rows(10_240)
    if side == "ours":
        trained = Ours(backbone(BASE), DECODER, inputs)
        for batches in trained.epochs(3, 1):
            trained(batches)
    else:
        peer = Peft("prefix", 20, inputs, BASE)
        for _ in range(3):
            peer()
    # not getrusage: there a process begins with the peak of the one that started it
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))


def first_step() -> float:
    """Seconds until `preface train` takes its first step."""
    code = (
        "import os, sys, time; began = float(sys.argv.pop(1))\n"
        "from preface.cli import main\n"
        "import preface.tuning.step\n"
        "def stop(*_):\n"
        "    print(time.time() - began, flush=True); os._exit(0)\n"
        "preface.tuning.step.Step.__call__ = stop\n"
        "main()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        options = ["train", "--task", "film", "--out", f"{folder}/run"]
        command = [sys.executable, "-c", code, str(time.time()), *options]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


@cache
def here() -> tuple[dict[str, str], str]:
    """Versions, and the machine."""
    import peft

    return installed_versions() | {"peft": peft.__version__}, hardware()


def ratio(name: str, runs: dict[str, list[float]], unit: str, target: float, beyond: float, note: str = "") -> Measure:
    """How many times faster ours is; the median of the runs' own ratios, which stand side by side in time."""
    times = median([peer / own for own, peer in zip(runs["ours"], runs["peer"], strict=True)])
    return Measure(
        name,
        median(runs["ours"]),
        median(runs["peer"]),
        unit,
        times,
        target,
        beyond,
        times >= target,
        runs,
        *here(),
        note,
    )


def number(name: str, value: float, unit: str, target: float, beyond: float) -> Measure:
    """A measure without a peer; whether more or less is better shows in what lies beyond the target."""
    reached = value <= target if beyond < target else value >= target
    return Measure(name, value, None, unit, value, target, beyond, reached, {"ours": [value]}, *here())


def told(value: float) -> str:
    """Three digits, and those before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def lines(measures: list[Measure]) -> list[list[str]]:
    """The cells of the table."""
    output = []
    for item in measures:
        peer = "" if item.peer is None else told(item.peer)
        wanted = f"{item.target:g} / {item.beyond:g}"
        output.append(
            [
                item.measure,
                told(item.ours),
                peer,
                item.unit,
                f"{item.ratio:.2f}",
                wanted,
                "yes" if item.reached else "no",
            ]
        )
    return output


HEAD = ["measure", "ours", "peer", "unit", "ratio", "target / beyond", "reached"]


def write(measures: list[Measure], out: Path) -> None:
    """`bench.json`, `bench.md` and `bench.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps([asdict(item) for item in measures], indent=1) + "\n")
    table = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *lines(measures)]
    (out / "bench.md").write_text("\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
    draw(measures, out / "bench.png")


def draw(measures: list[Measure], path: Path) -> None:
    """Ours and the peer's time of every measure that has both, the peer's as 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    both = [item for item in measures if item.peer][::-1]
    if not both:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.7 * len(both) + 1.2), layout="constrained")
    places = range(len(both))
    axes.barh([place + 0.2 for place in places], [1] * len(both), 0.36, color="#c9c9c9", label="PEFT")
    shares = [item.ours / (item.peer or 1) for item in both]
    axes.barh([place - 0.2 for place in places], shares, 0.36, color="#2f6f9f", label="Preface")
    for place, share, item in zip(places, shares, both, strict=True):
        times = f"{item.ratio:.2f} of the memory" if item.unit == "MB" else f"{item.ratio:.1f} × faster"
        axes.text(share + 0.01, place - 0.2, times, va="center", fontsize=9)
    axes.set_yticks(list(places), [item.measure for item in both], fontsize=9)
    axes.set_xlabel("time or memory, PEFT = 1")
    axes.set_xlim(0, 1.35)
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Preface beside PEFT, on this machine")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of an epoch")
    parser.add_argument("--only", nargs="+", help="some of the measures")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    bench = Bench(options.runs, options.steps)
    every = ("decoder_prefix", "prompt", "every_site", "population", "scoring", "products", "memory", "start")
    chosen = options.only or every
    if unknown := set(chosen) - set(every):
        parser.error(f"--only {' '.join(unknown)}: choose from {', '.join(every)}")
    measures: list[Measure] = []
    console = Console(stderr=True)
    for name in track(chosen, "measuring", console=console, disable=not console.is_terminal):
        measures += getattr(bench, name)()
        write(measures, options.out)  # nothing measured is lost
    table = Table(title=f"batch {BATCH} a prompt, T5-small's shape; {here()[1]}")
    for place, head in enumerate(HEAD):
        table.add_column(head, justify="right" if place else "left")
    for row in lines(measures):
        table.add_row(*row)
    show(table)
    print(f"written to {options.out}/")


if __name__ == "__main__":
    main()

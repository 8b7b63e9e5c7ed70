"""A GPU's work launched as a whole.

A training step of a large model is thousands of small kernels, and with few rows it takes Python longer to launch them
than the GPU to run them. A CUDA graph remembers the launches: it runs the same kernels on the same memory again. So
there is one graph for each shape of a batch, and the batches are padded to a few shapes (`padded_length`).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from preface.errors import first_line
from preface.terminal.progress import warn

Outputs = tuple[Tensor | None, ...]
Work = Callable[..., Outputs]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Does work that writes into tensors once, records it, and returns what repeats it."""
Shapes = tuple[object, ...]

MOST = 32
"""Graphs that are held. Other shapes are launched kernel by kernel."""
AGREE = 0.05
"""How far, of a member's largest number, what a graph computes may be from what the kernels do one by one: in bfloat16
sums depend on their order, while numbers of another batch are far off."""


def cuda_graphs(stream: torch.cuda.Stream) -> Recorder:
    """Recording into CUDA graphs, which share their memory: what one holds is free for the next once it has run.

    The stream belongs to these graphs alone: cuBLAS's workspace is the stream's, and goes with the first of its graphs.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        gc.collect()  # not in the midst of a recording, where another's graphs might be what is collected
        try:
            # a capture that fails leaves its stream the current one; the outer `with` does not
            with torch.cuda.device(stream.device), torch.cuda.stream(stream):
                work()  # libraries that set themselves up at first use must not do so in a graph
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    work()
        finally:
            current.wait_stream(stream)
        return graph.replay

    return record


@dataclass
class _Graph:
    arguments: tuple[Tensor | None, ...]
    """Where it reads; each call is copied there."""
    outputs: Outputs
    """Where it writes; graphs write into the same tensors."""
    repeat: Callable[[], None]
    checked: bool = False

    def __call__(self, arguments: tuple[Tensor | None, ...]) -> Outputs:
        for place, given in zip(self.arguments, arguments, strict=True):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        self.repeat()
        return self.outputs


class Captured:
    """Work of tensors, whose outputs are one row a member: recorded when a shape of arguments comes a second time.

    At the third time the graph is held against the same work done kernel by kernel, on numbers that it was not recorded
    with. Should a graph not be recorded, or not agree, that is said, and nothing is recorded from then on. What a call
    returns, the next call overwrites.
    """

    def __init__(self, record: Recorder) -> None:
        self.record: Recorder | None = record
        self.graphs: dict[Shapes, _Graph] = {}
        self.outputs: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
        self.seen: Counter[Shapes] = Counter()

    def __call__(self, work: Work, *arguments: Tensor | None) -> Outputs:
        """`work(*arguments)`; the work is the same at every call."""
        shapes = tuple(None if item is None else (item.shape, item.dtype) for item in arguments)
        self.seen[shapes] += 1
        if shapes not in self.graphs:
            again = self.record is not None and self.seen[shapes] > 1 and len(self.graphs) < MOST
            return self._recorded(work, shapes, arguments) if again else self._directly(work, arguments)
        if self.graphs[shapes].checked:
            return self.graphs[shapes](arguments)
        expected = self._directly(work, arguments)
        if shapes in self.graphs:  # or memory was short, and they are gone
            self._check(self.graphs[shapes], arguments, expected)
        return expected

    def _check(self, graph: _Graph, arguments: tuple[Tensor | None, ...], expected: Outputs) -> None:
        """Hold a graph against the same work done directly."""
        for place in graph.outputs:
            if place is not None:
                place.fill_(torch.nan)
        if not all(map(_alike, graph(arguments), expected)):
            self._give_up("recorded, this step gives other numbers")
        else:  # where every member has diverged, there was nothing to see
            graph.checked = all(item is None or bool(item.isfinite().any()) for item in expected)

    def _recorded(self, work: Work, shapes: Shapes, arguments: tuple[Tensor | None, ...]) -> Outputs:
        """Record a graph for these shapes; the outputs for these arguments."""
        assert self.record is not None
        own = tuple(None if item is None else item.clone() for item in arguments)
        outputs: Outputs = ()

        def fill() -> None:
            nonlocal outputs
            made = work(*own)
            outputs = outputs or tuple(map(self._output, range(len(made)), made))
            for place, item in zip(outputs, made, strict=True):
                if place is not None and item is not None:
                    place.copy_(item)

        try:
            repeat = self.record(fill)
        except RuntimeError as error:
            why = f"this step cannot be recorded ({_cause(error)})"
        else:
            self.graphs[shapes] = _Graph(own, outputs, repeat)
            return outputs
        # not while the error is at hand, which holds what was computed until then
        self._give_up(why)
        return self._directly(work, arguments)

    def _output(self, place: int, like: Tensor | None) -> Tensor | None:
        """Where all graphs put their output of that place and shape."""
        if like is None:
            return None
        key = (place, like.shape, like.dtype)
        if key not in self.outputs:
            self.outputs[key] = torch.empty_like(like)
        return self.outputs[key]

    def _directly(self, work: Work, arguments: tuple[Tensor | None, ...]) -> Outputs:
        try:
            return work(*arguments)
        except torch.OutOfMemoryError:
            if not self.graphs:
                raise
        self._give_up("the memory that recorded steps hold is wanted")
        return work(*arguments)

    def _give_up(self, why: str) -> None:
        self.record = None
        self.graphs.clear()
        self.outputs.clear()
        warn(f"{why}; kernels are launched one by one, which is slower and as right")


def _cause(error: BaseException) -> str:
    """The first thing that went wrong, in a line."""
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error)


def _alike(recorded: Tensor | None, expected: Tensor | None) -> bool:
    """Whether each member's finite numbers agree; a member that has diverged says nothing of the graph."""
    if recorded is None or expected is None:
        return recorded is expected
    known = expected.isfinite()
    apart = torch.where(known, recorded - expected, 0.0).abs().reshape(len(expected), -1).amax(1)
    largest = torch.where(known, expected, 0.0).abs().reshape(len(expected), -1).amax(1)
    return bool((apart <= AGREE * largest).all())  # NaN is no agreement


def padded_length(length: int) -> int:
    """The next of few lengths: multiples of 16 up to 128, of 64 beyond, so that inputs of up to 512 need 14 graphs."""
    step = 16 if length <= 128 else 64
    return -(-length // step) * step

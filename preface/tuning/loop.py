"""The loop of every training: steps, logs, evaluations, checkpoints, interruption, and going on from there.

What is trained owns its update, its scores and its tensors (`Trained`); the loop owns when things happen and what is
kept of them. Resumed, it ends bit for bit where it would have ended uninterrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from preface.errors import UserError
from preface.records import checkpoint
from preface.records.metrics import METRICS, append_metrics, cut_metrics
from preface.terminal.interrupt import Interrupted, stop_requested
from preface.terminal.progress import progress, say, warn
from preface.tuning.processes import Processes
from preface.tuning.schedules import Budget

LOG_EVERY = 10
"""Steps between lines in `metrics.jsonl`."""
CHECKPOINT_SECONDS = 30.0
"""What is lost at most when the process is killed, unless a training sets another number."""
CHECKPOINTS = "checkpoints"

OnLine = Callable[[Mapping[str, Any]], None]


@dataclass
class Position:
    """How far a training has come."""

    steps: int = 0
    tokens: int = 0
    """Counted by what is trained."""
    seconds: float = 0.0
    """Of all work."""
    training_seconds: float = 0.0
    """Of steps alone."""
    metrics_bytes: int = 0
    """Length of `metrics.jsonl`: what came after is written again."""
    logged: int = 0
    """The step of the last line about losses."""
    evaluated: dict[str, int] = field(default_factory=dict)
    """The step of the last evaluation of each name."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured every so many steps, before the first and after the last."""

    name: str
    every: int
    """Steps."""
    lines: Callable[[Position], Iterable[Mapping[str, Any]]]
    """Measures, and makes lines for `metrics.jsonl`."""
    long: bool = False
    """It may take minutes, or be interrupted itself: a checkpoint is written before it; none before the first step."""

    def is_due(self, at: Position, last: bool) -> bool:
        begun = 0 if self.long else -1
        return at.evaluated.get(self.name, begun) < at.steps and (last or at.steps % self.every == 0)


class Trained(Protocol):
    """What a loop trains."""

    title: str
    """For the progress display."""
    device: torch.device
    evaluations: Sequence[Evaluation]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train, whatever is left of the budget."""
        ...

    @property
    def note(self) -> str:
        """Losses and scores in a few words."""
        ...

    def step(self, number: int, done: float) -> int:
        """Update number 0, 1, …, at a share `done` of the budget; returns the tokens that it took."""
        ...

    def log(self, at: Position) -> Mapping[str, Any] | None:
        """A line for `metrics.jsonl` about the steps since the last; None: nothing new."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold, on any device."""
        ...

    def record(self) -> dict[str, Any]:
        """What a checkpoint must hold beside tensors, as JSON knows it."""
        ...

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """The inverse of `tensors` and `record`."""
        ...


def note_of(loss: float | None, score: str) -> str:
    """What is known of a loss and a score, in a few words."""
    return " · ".join(filter(None, ("" if loss is None else f"loss {loss:.3f}", score)))


class Loop:
    """Trains to the end of a budget, or until what is trained has finished.

    Of several processes each has a loop: one of them writes, and all take the same turns.
    """

    def __init__(
        self,
        folder: Path,
        trained: Trained,
        budget: Budget,
        resume_with: str,
        *,
        checkpoint_seconds: float | None = None,
        keep: int = checkpoint.KEEP,
        processes: Processes | None = None,
        on_line: OnLine = lambda line: None,
    ) -> None:
        """`resume_with`: the command that goes on after an interruption; `keep`: how many checkpoints are kept;
        `processes`: those that train it together; `on_line` hears each line of `metrics.jsonl`."""
        self.folder, self.trained, self.budget, self.resume_with = folder, trained, budget, resume_with
        self.checkpoint_seconds = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
        self.keep, self.on_line = keep, on_line
        self.processes = processes or Processes()
        self.is_main = self.processes.is_main
        self.at = Position()
        self.done = 0.0
        """The share of the budget that is used up."""

    def run(self) -> Position:
        """Train, or go on training, to the end. Raises Interrupted at a request to stop: a checkpoint is written."""
        cuda = [self.trained.device] if self.trained.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):
                self._resume()
                with self._progress() as self.advance, stop_requested() as self.stop:
                    self._run()
        except Interrupted as stopped:
            raise Interrupted(f"stopped after {self._where()}; `{self.resume_with}` goes on") from stopped
        return self.at

    def _run(self) -> None:
        self.shown = self.budget.used(self.at)
        self.began = time.monotonic() - self.at.seconds
        self.saved_at = time.monotonic()
        self._evaluate()
        while not self._is_over():
            self._step()
            if not self._is_over():
                self._measure()
                self._checkpoint()
        self._measure(last=True)
        self._checkpoint()

    def _is_over(self) -> bool:
        self.done = self.budget.used(self.at) / self.budget.total
        if self.budget.unit == "seconds":
            (self.done,) = self._agreed(self.done)
        return self.done >= 1 or self.trained.finished

    def _step(self) -> None:
        with self._training_time():
            self.at.tokens += self.trained.step(self.at.steps, self.done)
            self.at.steps += 1
        self._tick()

    def _measure(self, last: bool = False) -> None:
        if self.at.logged < self.at.steps and (last or self.at.steps % LOG_EVERY == 0):
            with self._training_time():  # reading a loss waits for a device to be done with the steps
                line = self.trained.log(self.at)
            if line is not None:
                self._write(line)
            self.at.logged = self.at.steps
        self._evaluate(last)
        self._tick()

    def _tick(self) -> None:
        """Read the clock, and show the progress."""
        self.at.seconds = time.monotonic() - self.began
        used = self.budget.used(self.at)
        self.advance(used - self.shown, note=self._note())
        self.shown = used

    def _evaluate(self, last: bool = False) -> None:
        for evaluation in self.trained.evaluations:
            if evaluation.is_due(self.at, last):
                if evaluation.long:
                    self._save()
                for line in evaluation.lines(self.at):
                    self._write(line)
                self.at.evaluated[evaluation.name] = self.at.steps
                self.processes.wait()

    def _checkpoint(self) -> None:
        """Write one where it is time, or where somebody asks to stop; then stop."""
        due = time.monotonic() - self.saved_at > self.checkpoint_seconds
        stopped, due_somewhere = self._agreed(float(self.stop()), float(due))
        if stopped or due_somewhere:
            self._save()
        if stopped:
            raise Interrupted

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        tensors = self.trained.tensors()
        if self.is_main:
            tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            tensors["random.cpu"] = torch.get_rng_state()
            if self.trained.device.type == "cuda":
                tensors["random.cuda"] = torch.cuda.get_rng_state(self.trained.device)
            record = {"position": asdict(self.at), "trained": self.trained.record()}
            checkpoint.save_state(self.folder / CHECKPOINTS, self.at.steps, tensors, record, self.keep)
        self.processes.wait()

    def _resume(self) -> None:
        """Go back to the newest whole checkpoint, if there is one."""
        found = self._load()
        if found is None:
            if self.is_main:
                (self.folder / METRICS).unlink(missing_ok=True)
            return
        tensors, record, refused = found
        for line in refused:
            warn(f"{line}; the checkpoint before it is used")
        if "position" not in record:
            raise UserError(f"{self.folder}: was begun by an earlier version of Preface; start anew")
        self.at = Position(**record["position"])
        self.trained.restore(tensors, record["trained"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self.trained.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.trained.device)
        if self.is_main:
            cut_metrics(self.folder, self.at.metrics_bytes)
            say(f"going on from {self._where()}")

    def _load(self) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
        folder = self.folder / CHECKPOINTS
        found = checkpoint.load_state(folder) if self.is_main else None
        self.processes.wait()  # one process puts damaged checkpoints away, then the others read
        return found if self.is_main else checkpoint.load_state(folder)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.is_main:
            self.at.metrics_bytes = append_metrics(self.folder, dict(line))
            self.on_line(line)

    def _agreed(self, *values: float) -> list[float]:
        """Means over processes, so that all of them take the same turn."""
        if self.processes.count == 1:
            return list(values)
        means: list[float] = (self.processes.total(torch.tensor(values)) / self.processes.count).tolist()
        return means

    @contextmanager
    def _training_time(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.at.training_seconds += time.monotonic() - began

    @contextmanager
    def _progress(self) -> Iterator[Callable[..., None]]:
        total, unit = self.budget.total, self.budget.unit
        shown = progress(self.trained.title, total, unit, self.budget.used(self.at)) if self.is_main else nullcontext()
        with shown as advance:
            yield advance or (lambda *_, **__: None)

    def _note(self) -> str:
        steps = "" if self.budget.unit == "steps" else f"step {self.at.steps:,}"
        return " · ".join(filter(None, (steps, self.trained.note)))

    def _where(self) -> str:
        of = f" of {self.budget.total:,.0f}" if self.budget.unit == "steps" else ""
        return f"step {self.at.steps:,}{of}"

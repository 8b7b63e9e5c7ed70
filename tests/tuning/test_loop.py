"""The loop with the simplest thing to train: a number that takes a random walk."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preface.errors import UserError
from preface.records.metrics import read_metrics
from preface.terminal.interrupt import Interrupted
from preface.tuning import loop
from preface.tuning.loop import Evaluation, Loop, Position, note_of
from preface.tuning.schedules import Budget


class Walk:
    title = "walk"
    device = torch.device("cpu")

    def __init__(self, ends_at: int | None = None, probe: Callable[[], None] | None = None) -> None:
        self.place, self.ends_at, self.finished, self.note = torch.zeros(()), ends_at, False, ""
        self.at_step: Callable[[int], Any] = lambda number: None
        self.shares: list[float] = []
        self.evaluations = [Evaluation("place", 4, self.measure)]
        if probe is not None:

            def probed(at: Position) -> Iterator[dict[str, Any]]:
                probe()
                yield {"step": at.steps, "probe": float(self.place)}

            self.evaluations.append(Evaluation("probe", 5, probed, long=True))

    def step(self, number: int, done: float) -> int:
        self.at_step(number)
        self.shares.append(done)
        self.place += torch.randn(())
        self.finished = number + 1 == self.ends_at
        return 10

    def measure(self, at: Position) -> Iterator[dict[str, Any]]:
        yield {"step": at.steps, "place": float(self.place)}

    def log(self, at: Position) -> dict[str, Any]:
        return {"step": at.steps, "tokens": at.tokens}

    def tensors(self) -> dict[str, Tensor]:
        return {"place": self.place}

    def record(self) -> dict[str, Any]:
        return {"finished": self.finished}

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.place.copy_(tensors["place"])
        self.finished = record["finished"]


def run(folder: Path, walk: Walk, budget: Budget, **options: Any) -> Position:
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Loop(folder, walk, budget, f"preface walk --resume {folder}", **options).run()


def steps_of(folder: Path, name: str) -> list[int]:
    return [line["step"] for line in read_metrics(folder) if name in line]


def test_evaluations_come_first_regularly_and_last(tmp_path: Path) -> None:
    at = run(tmp_path, Walk(probe=lambda: None), Budget(14))
    assert at.steps == 14
    assert steps_of(tmp_path, "place") == [0, 4, 8, 12, 14]
    assert steps_of(tmp_path, "probe") == [5, 10, 14]  # a long one not before there is anything to measure
    assert steps_of(tmp_path, "tokens") == [10, 14]


def test_what_has_finished_ends_before_its_budget(tmp_path: Path) -> None:
    assert run(tmp_path, Walk(ends_at=6), Budget(14)).steps == 6
    assert steps_of(tmp_path, "place") == [0, 4, 6]


def test_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path / "tokens", Walk(), Budget(41, "tokens")).steps == 5
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    walk = Walk()
    walk.at_step = lambda number: now.__setitem__(0, now[0] + 2)
    at = run(tmp_path / "seconds", walk, Budget(5, "seconds"))
    assert (at.steps, at.seconds, at.training_seconds) == (3, 6, 6)
    assert walk.shares == [0, 0.4, 0.8]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stop_at", [2, 3, 13])
def test_stopped_and_resumed_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, number: signal.Signals, stop_at: int
) -> None:
    whole = Walk(probe=lambda: None)
    run(tmp_path / "whole", whole, Budget(14))
    walk = Walk(probe=lambda: None)
    walk.at_step = lambda step: signal.raise_signal(number) if step == stop_at else None
    out = tmp_path / "part"
    message = rf"stopped after step {stop_at + 1} of 14; `preface walk --resume {out}` goes on"
    with pytest.raises(Interrupted, match=message):
        run(out, walk, Budget(14))
    torch.rand(7)
    resumed = Walk(probe=lambda: None)
    run(out, resumed, Budget(14))
    assert torch.equal(resumed.place, whole.place)
    assert read_metrics(out) == read_metrics(tmp_path / "whole")


@pytest.mark.parametrize("interruption", [Interrupted, KeyboardInterrupt])
def test_a_long_evaluation_that_was_interrupted_is_taken_again(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    calls = []

    def probe() -> None:
        calls.append(0)
        if len(calls) == 2:
            raise interruption

    run(tmp_path / "whole", Walk(probe=lambda: None), Budget(14))
    with pytest.raises(interruption):
        run(tmp_path / "part", Walk(probe=probe), Budget(14))
    run(tmp_path / "part", Walk(probe=probe), Budget(14))
    assert read_metrics(tmp_path / "part") == read_metrics(tmp_path / "whole")


def test_a_kill_loses_only_what_came_after_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    whole, walk = Walk(), Walk()
    run(tmp_path / "whole", whole, Budget(14))

    def die(number: int) -> None:
        if number == 9:
            raise MemoryError

    walk.at_step = die
    with pytest.raises(MemoryError):
        run(tmp_path / "part", walk, Budget(14), keep=3)
    states = sorted((tmp_path / "part" / "checkpoints").iterdir())
    assert [state.name[-1] for state in states] == ["7", "8", "9"]
    shutil.rmtree(states[-1])  # as if it had not been written whole
    resumed = Walk()
    run(tmp_path / "part", resumed, Budget(14))
    assert torch.equal(resumed.place, whole.place)
    assert read_metrics(tmp_path / "part") == read_metrics(tmp_path / "whole")


def test_checkpoints_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    walk = Walk()
    walk.at_step = lambda step: signal.raise_signal(signal.SIGINT) if step == 3 else None
    with pytest.raises(Interrupted):
        run(tmp_path, walk, Budget(14))
    (state,) = (tmp_path / "checkpoints").glob("*/state.json")
    assert json.loads(state.read_text())["position"]["steps"] == 4
    from preface.records.checkpoint import save_state

    save_state(tmp_path / "checkpoints", 5, {"place": walk.place}, {"step": 5, "seconds": 1.0})
    with pytest.raises(UserError, match="begun by an earlier version of Preface; start anew"):
        run(tmp_path, Walk(), Budget(14))


@pytest.mark.parametrize(
    ("loss", "score", "said"),
    [
        (None, "", ""),
        (0.5, "", "loss 0.500"),
        (None, "dev 0.800", "dev 0.800"),
        (0.5, "dev 0.8", "loss 0.500 · dev 0.8"),
    ],
)
def test_a_note_says_what_is_known(loss: float | None, score: str, said: str) -> None:
    assert note_of(loss, score) == said

"""Where standard error is no terminal: a plain line now and then."""

from __future__ import annotations

import time

import pytest

from preface.terminal.progress import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def lines(
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    steps: int,
    seconds: float,
    total: float | None = None,
    done: int = 0,
) -> list[tuple[float, str]]:
    """The lines of so many steps, each with the time when it came."""
    found = []
    with progress("training", total, "steps", done) as advance:
        for _ in range(steps):
            clock.now += seconds
            advance(1, note="loss 0.693 · dev 0.500")
            found += [(clock.now - 100, line) for line in capsys.readouterr().err.splitlines()]
    return found


def test_short_work_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert not lines(clock, capsys, steps=99, seconds=0.1, total=99)


def test_a_line_says_step_note_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = lines(clock, capsys, steps=1200, seconds=1, total=1200)
    assert first == (10, "training: 10 of 1,200 steps · loss 0.693 · dev 0.500 · 19:50 left")
    assert [at for at, _ in others] == list(range(70, 1200, 60))  # each twentieth


def test_time_left_is_that_of_later_steps_not_of_the_first(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 101, "steps") as advance:
        clock.now += 600  # reads what others find read
        advance(1)
        assert capsys.readouterr().err == "training: 1 of 101 steps\n"
        for _ in range(40):
            clock.now += 1
            advance(1)
    assert capsys.readouterr().err.splitlines()[-1].endswith(" of 101 steps · 1:10 left")


def test_never_more_than_two_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert [at for at, _ in lines(clock, capsys, steps=100, seconds=1, total=100)] == [10, 40, 70, 100]


def test_very_long_work_is_not_silent_for_long(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(clock, capsys, steps=1000, seconds=1, total=36_000)
    assert [at for at, _ in found] == [10, 310, 610, 910]
    assert found[0][1].endswith("9:59:50 left")


def test_resumed_work_is_timed_by_today_s_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, line),) = lines(clock, capsys, steps=10, seconds=1, total=200, done=150)
    assert line.startswith("training: 160 of 200 steps")
    assert line.endswith("0:40 left")


def test_without_a_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(clock, capsys, steps=75, seconds=1)
    assert [at for at, _ in found] == [10, 40, 70]
    assert found[1][1] == "training: 40 steps · loss 0.693 · dev 0.500"

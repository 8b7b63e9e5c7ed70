"""Recorded work against the same work done directly. Without a GPU a recording is the work done once more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preface import captured
from preface.captured import Captured, Outputs, padded


class Repeating:
    """What a CUDA graph does, as far as a CPU can: each repetition fills the same outputs from the same arguments."""

    def __init__(self) -> None:
        self.recorded, self.repeated = 0, 0

    def __call__(self, work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        self.recorded += 1
        outputs = tuple(None if item is None else torch.full_like(item, torch.nan) for item in work())

        def repeat() -> None:
            self.repeated += 1
            for place, made in zip(outputs, work(), strict=True):
                if place is not None and made is not None:
                    place.copy_(made)

        return repeat, outputs


def add(left: Tensor, right: Tensor | None) -> Outputs:
    return left * 2 if right is None else left + right, right, None


CALLS = st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.floats(-9, 9, width=32)), max_size=30)


@given(CALLS)
def test_every_call_gives_what_the_work_gives(calls: list[tuple[int, bool, float]]) -> None:
    recorder = Repeating()
    work = Captured(add, recorder)
    for size, both, number in calls:
        arguments = (torch.full((size,), number), torch.arange(float(size)) if both else None)
        for got, wanted in zip(work(*arguments), add(*arguments), strict=True):
            assert (got is None) == (wanted is None)
            if got is not None and wanted is not None:
                assert torch.equal(got, wanted)
    often = [
        calls_of for shape in {call[:2] for call in calls} if (calls_of := [c[:2] for c in calls].count(shape)) > 1
    ]
    assert recorder.recorded == len(often)
    assert recorder.repeated == sum(often) - len(often)  # from the second call of a shape on


def test_no_more_graphs_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "MOST", 2)
    recorder = Repeating()
    work = Captured(add, recorder)
    for _ in range(3):
        for size in (1, 2, 3):
            assert torch.equal(work(torch.ones(size), None)[0], torch.full((size,), 2.0))  # type: ignore[arg-type]
    assert recorder.recorded == 2


def failing(work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    raise RuntimeError("operation not permitted when stream is capturing\nand a long trace")


def wrong(work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    repeat, outputs = Repeating()(work)

    def other() -> None:
        repeat()
        assert outputs[0] is not None
        outputs[0].mul_(1.1)

    return other, outputs


@pytest.mark.parametrize(("recorder", "why"), [(failing, "when stream is capturing"), (wrong, "gives other numbers")])
def test_what_cannot_be_recorded_is_done_directly(recorder: object, why: str, capsys: pytest.CaptureFixture) -> None:
    work = Captured(add, recorder)  # type: ignore[arg-type]
    for number in range(4):
        assert float(work(torch.ones(1) * number, None)[0]) == 2 * number  # type: ignore[arg-type]
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.count("launched one by one") == 1
    assert why in told


def test_a_member_that_diverged_is_no_fault_of_the_graph() -> None:
    recorder = Repeating()
    work = Captured(add, recorder)
    for _ in range(3):
        assert work(torch.tensor([torch.nan, 1.0]), None)[0].isnan().tolist() == [True, False]  # type: ignore[union-attr]
    assert recorder.repeated == 2


@given(st.integers(1, 512))
def test_few_lengths(length: int) -> None:
    assert length <= padded(length) < length + (16 if length <= 128 else 64)


def test_fourteen_lengths_up_to_512() -> None:
    assert len({padded(length) for length in range(1, 513)}) == 14

"""Recorded work against the same work done directly. Without a GPU a recording is the work done once more."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preface.backbones import captured
from preface.backbones.captured import Captured, Outputs, padded_length


class Repeating:
    """What CUDA graphs do, as far as a CPU can: each repetition does the work on what then lies in its arguments."""

    def __init__(self) -> None:
        self.recorded, self.repeated = 0, 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        work()

        def repeat() -> None:
            self.repeated += 1
            work()

        return repeat


def add(left: Tensor, right: Tensor | None) -> Outputs:
    return left * 2 if right is None else left + right, right, None


CALLS = st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.floats(-9, 9, width=32)), max_size=30)


@given(CALLS)
def test_every_call_gives_what_the_work_gives(calls: list[tuple[int, bool, float]]) -> None:
    recorder = Repeating()
    step = Captured(recorder)
    for size, both, number in calls:
        arguments = (torch.full((size,), number), torch.arange(float(size)) if both else None)
        for got, wanted in zip(step(add, *arguments), add(*arguments), strict=True):
            assert (got is None) == (wanted is None)
            if got is not None and wanted is not None:
                assert torch.equal(got, wanted)
    often = Counter(call[:2] for call in calls).values()
    assert recorder.recorded == sum(times > 1 for times in often)  # at the second call of a shape
    assert recorder.repeated == sum(max(0, times - 2) for times in often)  # from the third on


def test_no_more_graphs_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "MOST", 2)
    recorder = Repeating()
    step = Captured(recorder)
    for _ in range(4):
        for size in (1, 2, 3):
            assert first(step(add, torch.ones(size), None)).tolist() == [2.0] * size
    assert recorder.recorded == 2


def first(outputs: Outputs) -> Tensor:
    assert outputs[0] is not None
    return outputs[0]


def failing(work: Callable[[], None]) -> Callable[[], None]:
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long trace")
    except RuntimeError:
        raise RuntimeError("a previous error")  # noqa: B904 - as torch raises the one that follows


def without_words(work: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError


def doing_nothing(work: Callable[[], None]) -> Callable[[], None]:
    work()
    return lambda: None


def always_the_same(work: Callable[[], None]) -> Callable[[], None]:
    """The numbers of the recording are baked in."""
    cells = dict(zip(work.__code__.co_freevars, (cell for cell in work.__closure__ or ()), strict=True))
    work()
    outputs: Outputs = cells["outputs"].cell_contents
    frozen = [None if item is None else item.clone() for item in outputs]

    def repeat() -> None:
        for place, item in zip(outputs, frozen, strict=True):
            if place is not None and item is not None:
                place.copy_(item)

    return repeat


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (failing, "(operation not permitted when stream is capturing)"),
        (without_words, "(RuntimeError)"),
        (doing_nothing, "gives other numbers"),
        (always_the_same, "gives other numbers"),
    ],
)
def test_what_cannot_be_recorded_is_done_directly(
    recorder: Callable[[Callable[[], None]], Callable[[], None]], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Captured(recorder)
    for number in range(1, 6):
        assert float(first(step(add, torch.ones(1) * number, None))) == 2 * number
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("launched one by one") == 1
    assert why in printed
    assert not step.graphs


@pytest.mark.parametrize("wrong", [[True, False, False], [False, True, False]])
def test_each_member_is_checked_by_itself(wrong: list[bool], capsys: pytest.CaptureFixture[str]) -> None:
    """One has diverged, one has small numbers, one has large ones."""
    members, recording = torch.tensor(wrong), [True]

    def work(numbers: Tensor) -> Outputs:
        made = torch.stack([numbers * 1e-6, numbers, numbers * torch.nan])  # [3, 4]
        return (torch.where(members[:, None] & (not recording[0]), made * 1.2, made),)

    def record(fill: Callable[[], None]) -> Callable[[], None]:
        fill()

        def repeat() -> None:
            recording[0] = False
            fill()
            recording[0] = True

        return repeat

    step = Captured(record)
    for number in range(1, 4):
        step(work, torch.arange(4.0) + number)
    assert "gives other numbers" in " ".join(capsys.readouterr().err.split())


def test_a_member_that_diverged_is_no_fault_of_the_graph() -> None:
    recorder = Repeating()
    step = Captured(recorder)
    for _ in range(4):
        assert first(step(add, torch.tensor([torch.nan, 1.0]), None)).isnan().tolist() == [True, False]
    assert recorder.repeated == 2


@pytest.mark.parametrize("checked", [True, False])
def test_memory_that_graphs_hold_is_given_back(checked: bool, capsys: pytest.CaptureFixture[str]) -> None:
    step = Captured(Repeating())
    graphs: list[weakref.ref[object]] = []
    wanted = 1 if checked else 3  # rows: at another shape, or at the check of a shape's own graph

    def hungry(left: Tensor) -> Outputs:
        if len(left) == wanted and any(graph() is not None for graph in graphs):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (left * 2,)

    for call in range(3 if checked else 2):
        assert first(step(hungry, torch.ones(3) * call)).tolist() == [2.0 * call] * 3
    graphs += [weakref.ref(graph) for graph in step.graphs.values()]
    assert len(graphs) == 1
    assert first(step(hungry, torch.ones(wanted))).tolist() == [2.0] * wanted
    assert "memory" in capsys.readouterr().err
    assert not step.graphs


def test_memory_that_there_is_not() -> None:
    def insatiable(left: Tensor) -> Outputs:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Captured(Repeating())(insatiable, torch.ones(2))


def test_memory_short_while_recording_is_free_before_the_work_is_done_directly() -> None:
    held: list[weakref.ref[Tensor]] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        activations = torch.ones(5)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def work(left: Tensor) -> Outputs:
        assert all(tensor() is None for tensor in held)
        return (left * 2,)

    step = Captured(record)
    for _ in range(3):
        assert first(step(work, torch.ones(1))).tolist() == [2.0]
    assert len(held) == 1


def test_where_all_have_diverged_nothing_is_checked() -> None:
    step = Captured(Repeating())
    for number in (1.0, 1.0, torch.nan):
        step(add, torch.tensor([number]), None)
    assert not next(iter(step.graphs.values())).checked
    step(add, torch.tensor([3.0]), None)
    assert next(iter(step.graphs.values())).checked


@given(st.integers(1, 512))
def test_few_lengths(length: int) -> None:
    assert length <= padded_length(length) < length + (16 if length <= 128 else 64)


def test_fourteen_lengths_up_to_512() -> None:
    assert len({padded_length(length) for length in range(1, 513)}) == 14

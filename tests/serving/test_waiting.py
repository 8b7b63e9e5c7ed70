from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preface.serving.waiting import ClosedError, FullError, Waiting


@dataclass(frozen=True)
class Item:
    caller: str
    number: int
    price: float = 1.0


def take(waiting: Waiting[Item], budget: float) -> list[Item]:
    return waiting.take(lambda item: item.price, budget, wait=0.0, idle=False)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=40), st.integers(1, 20))
def test_everything_is_taken_once_in_each_caller_s_order(prices: list[tuple[str, int]], budget: int) -> None:
    waiting: Waiting[Item] = Waiting(1_000)
    for number, (caller, price) in enumerate(prices):
        waiting.put([Item(caller, number, price)])
    taken: list[Item] = []
    while batch := take(waiting, budget):
        assert len(batch) == 1 or sum(item.price for item in batch) <= budget
        taken += batch
    assert sorted(item.number for item in taken) == list(range(len(prices)))
    for caller in "abc":
        own = [item.number for item in taken if item.caller == caller]
        assert own == sorted(own)
    assert len(waiting) == 0


@given(st.integers(1, 30), st.integers(2, 12))
def test_whoever_had_least_goes_first(many: int, budget: int) -> None:
    """One caller with many dear texts holds up another's cheap ones by no more than one of its own."""
    waiting: Waiting[Item] = Waiting(1_000)
    waiting.put([Item("dear", number, 5.0) for number in range(many)])
    waiting.put([Item("cheap", number, 1.0) for number in range(5)])
    had: Counter[str] = Counter()
    while batch := take(waiting, budget):
        for item in batch:
            had[item.caller] += int(item.price)
        if waiting.callers.keys() == {"dear", "cheap"}:
            assert abs(had["dear"] - had["cheap"]) <= 5 + budget


def test_a_new_caller_has_no_claim_on_what_others_had() -> None:
    waiting: Waiting[Item] = Waiting(1_000)
    waiting.put([Item("old", number) for number in range(60)])
    take(waiting, 50)
    waiting.put([Item("new", number) for number in range(20)])
    assert Counter(item.caller for item in take(waiting, 10)) == {"old": 5, "new": 5}


def test_no_more_than_may() -> None:
    waiting: Waiting[Item] = Waiting(3)
    waiting.put([Item("a", 0), Item("a", 1)])
    with pytest.raises(FullError):
        waiting.put([Item("a", 2), Item("a", 3)])
    waiting.put([Item("a", 2)])
    for caller in "bcd":  # others are not shut out by one
        waiting.put([Item(caller, number) for number in range(3)], beside=0)
    assert len(waiting) == 12
    with pytest.raises(FullError):
        waiting.put([Item("e", 0)])
    assert len(take(waiting, 1)) == 1
    with pytest.raises(FullError):
        waiting.put([Item("e", 0)], beside=1)
    waiting.put([Item("e", 0)])


def test_closing() -> None:
    waiting: Waiting[Item] = Waiting(3)
    waiting.put([Item("a", 0)])
    waiting.close()
    with pytest.raises(ClosedError):
        waiting.put([Item("a", 1)])
    assert len(waiting.take(lambda item: 1.0, 10, wait=0.0, idle=True)) == 1
    assert waiting.take(lambda item: 1.0, 10, wait=0.0, idle=True) == []


def test_an_idle_one_waits_for_the_first_and_a_little_for_more() -> None:
    waiting: Waiting[Item] = Waiting(10)

    def come() -> None:
        for number in range(3):
            time.sleep(0.02)
            waiting.put([Item("a", number)])

    thread = threading.Thread(target=come)
    thread.start()
    taken = waiting.take(lambda item: 1.0, 3, wait=30.0, idle=True)
    thread.join()
    assert [item.number for item in taken] == [0, 1, 2]


def test_an_idle_one_waits_no_longer_than_until_there_is_enough() -> None:
    waiting: Waiting[Item] = Waiting(10)
    waiting.put([Item("a", 0), Item("b", 1)])
    began = time.monotonic()
    taken = waiting.take(lambda item: 1.0, 5, wait=30.0, idle=True, enough=lambda taken: len(taken) >= 2)
    assert len(taken) == 2
    assert time.monotonic() - began < 20

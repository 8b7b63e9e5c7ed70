from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from preface.backbones.batching import by_length, cut, endless, epoch, padded

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(
    lengths,
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 500)),
)
def test_an_epoch_has_every_row_once_within_its_limits(rows, seed, number, size, budget) -> None:
    batches = epoch(rows, seed, number, size, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= size
        if budget is not None and len(batch) > 1:
            assert max(rows[index] for index in batch) * len(batch) <= budget
    assert batches == epoch(rows, seed, number, size, budget)


@given(lengths, st.integers(1, 500))
def test_a_token_budget_alone(rows, budget) -> None:
    for batches in (epoch(rows, 0, 0, None, budget), by_length(rows, budget)):
        assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
        assert all(len(b) == 1 or max(rows[i] for i in b) * len(b) <= budget for b in batches)


@given(lengths, st.integers(1, 500))
def test_evaluation_pads_little(rows, budget) -> None:
    for batch in by_length(rows, budget):
        *before, last = [rows[index] for index in batch]
        assert before == sorted(before, reverse=True)
        if sum(before) >= budget / 4:
            assert sum(before) + last >= 0.9 * (len(before) + 1) * max([*before, last])


@given(lengths, st.integers(1, 20), st.integers(0, 70))
def test_resuming_the_order_goes_on_where_it_was(rows, size, skip) -> None:
    whole = list(islice(endless(rows, 3, size), skip + 10))
    assert list(islice(endless(rows, 3, size, skip=skip), 10)) == whole[skip:]


def test_members_of_a_population_see_like_lengths_at_each_step() -> None:
    rows = [1 + (index * 7919) % 50 for index in range(4000)]
    first, second = epoch(rows, 0, 0, 32), epoch(rows, 1, 0, 32)
    assert first != second
    differences = [
        abs(max(rows[i] for i in mine) - max(rows[i] for i in theirs))
        for mine, theirs in zip(first, second, strict=True)
    ]
    assert sum(differences) / len(differences) < 3  # of 50
    padding = sum(max(rows[i] for i in batch) * len(batch) for batch in first) / sum(rows)
    assert padding < 1.1


def test_an_overlong_row_stands_alone() -> None:
    assert cut([0, 1, 2], [5, 900, 5], None, 20) == [[0], [1], [2]]


def test_padding_on_either_side() -> None:
    ids, mask = padded([[5, 6, 7], [8]], 9)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6, 7], [8, 9, 9]], [[1, 1, 1], [1, 0, 0]])
    ids, mask = padded([[5, 6, 7], [8]], 9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6, 7], [9, 9, 8]], [[1, 1, 1], [0, 0, 1]])

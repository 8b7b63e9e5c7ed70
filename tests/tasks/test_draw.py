"""How splits are drawn from the rows of a part."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from preface.tasks import Example
from preface.tasks.split import draw, folded
from tests.tasks.making import task

EXAMPLES = st.lists(
    st.builds(Example.of, st.text("aAb ", min_size=1, max_size=3), st.sampled_from(["bad", "good"])), max_size=60
)


@settings(max_examples=150)
@given(rows=EXAMPLES, size=st.integers(1, 20), test=st.integers(1, 20), seed=st.integers(0, 3))
def test_hold_outs_of_one_part_divide_it(rows: list[Example], size: int, test: int, seed: int) -> None:
    rules = {
        "train": {"part": "train"},
        "validation": {"part": "train", "size": size, "seed": seed},
        "test": {"part": "train", "size": test, "seed": seed},
    }
    parts = {name: draw(task(splits=rules), name, lambda _: rows) for name in ("train", "validation", "test")}
    sets = {name: {folded(row.text) for row in part} for name, part in parts.items()}
    assert set().union(*sets.values()) == {folded(row.text) for row in rows}
    assert sum(map(len, sets.values())) == len(set().union(*sets.values()))
    assert len(parts["test"]) == min(test, len(rows))
    left = sum(folded(row.text) not in sets["test"] for row in rows)
    assert len(parts["validation"]) == min(size, left)
    # train keeps each row, repeated or not, whose text no other split has
    assert parts["train"] == [r for r in rows if folded(r.text) not in sets["test"] | sets["validation"]]


def test_draws_are_the_same_everywhere() -> None:
    def drawn(seed: int, split: str = "test", **rule: Any) -> list[int]:
        rules = {"train": {"part": "train"}, "test": {"part": "train", "seed": seed, **rule}}
        examples = [Example.of(str(i), "bad" if i % 4 else "good") for i in range(40)]
        return [int(row.text) for row in draw(task(splits=rules), split, lambda _: examples)]  # type: ignore[arg-type]

    # these very numbers: another platform or version of Python must not change anyone's splits
    assert drawn(0, size=6) == [3, 12, 15, 25, 32, 35]
    assert drawn(1, size=6) == [9, 13, 19, 20, 26, 35]
    assert drawn(0, share=0.1) == [12, 15, 25, 32, 35]
    assert drawn(0, split="train", size=39) == sorted(set(range(40)) - set(drawn(0, size=39)))


@given(st.lists(st.integers(1, 400), min_size=2, max_size=9), st.sampled_from([50, 1000]))
def test_shares_of_each_label(counts: list[int], size: int) -> None:
    words = {str(i): f"word {i}" for i in range(len(counts))}
    examples = [Example.of(f"{i} {n}", words[str(i)]) for i, count in enumerate(counts) for n in range(count)]
    rules = {"train": {"part": "train"}, "validation": {"part": "train", "share": 0.1, "size": size}}
    held = draw(task(labels=words, splits=rules), "validation", lambda _: examples)
    got = Counter(row.label for row in held)
    assert len(held) <= size
    for i, count in enumerate(counts):
        wanted = min(max(2, round(count * min(0.1, size / sum(counts)))), count - 1)
        assert got[words[str(i)]] == wanted or len(held) == size
        assert got[words[str(i)]] < count

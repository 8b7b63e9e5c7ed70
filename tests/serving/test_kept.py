from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preface.serving.kept import Kept


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=60), st.integers(1, 30))
def test_the_last_used_stay_within_their_bytes(puts: list[tuple[int, int]], keep: int) -> None:
    kept: Kept[int, tuple[int, int]] = Kept(keep, lambda thing: thing[1])
    used: list[int] = []  # the independent account: keys by last use
    sizes: dict[int, int] = {}
    for key, size in puts:
        assert (kept.get(key) is not None) == (key in sizes)
        kept.put(key, (key, size))
        used = [*(other for other in used if other != key), key]
        sizes[key] = size
        while sum(sizes.values()) > keep and len(used) > 1:
            del sizes[used.pop(0)]
        assert list(kept) == used
        assert kept.bytes == sum(sizes.values())


def test_use_keeps_and_forgetting_frees() -> None:
    kept: Kept[str, str] = Kept(2, len)
    kept.put("a", "a")
    kept.put("b", "b")
    assert kept.get("a") == "a"
    kept.put("c", "c")
    assert list(kept) == ["a", "c"]
    kept.forget("a")
    kept.forget("none")
    assert (list(kept), kept.bytes, len(kept)) == (["c"], 1, 1)
    kept.put("large", "larger than all")
    assert list(kept) == ["large"]

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preface.prompts import Prompts, stack

carriers = st.dictionaries(st.sampled_from(["embeddings", "after", "encoder", "decoder", "cross"]), st.integers(1, 4))


def of_lengths(lengths: dict[str, int], size: int, seed: int = 0) -> Prompts:
    """`size` random prompts with carriers of these lengths; to `after` something is added."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for carrier, length in lengths.items():
        if carrier in ("embeddings", "after"):
            tensors[carrier] = torch.randn(size, length, 6, generator=generator)
            if carrier == "after":
                tensors["after.added"] = torch.randn(size, 3, length, 6, generator=generator)
        else:
            for part in ("keys", "values"):
                tensors[f"{carrier}.{part}"] = torch.randn(size, 2, 3, length, 5, generator=generator)
    return Prompts(tensors, size)


@given(st.lists(st.tuples(carriers, st.integers(1, 3)), min_size=1, max_size=4))
def test_stacked_prompts_are_still_each_themselves(kinds: list[tuple[dict[str, int], int]]) -> None:
    """Also those without any carrier: the bare model."""
    several = [of_lengths(lengths, size, seed) for seed, (lengths, size) in enumerate(kinds)]
    together = stack(several)
    assert together.size == sum(prompts.size for prompts in several)
    place = 0
    for prompts in several:
        for index in range(prompts.size):
            own, expected = together.tensors_of(place), prompts.tensors_of(index)
            assert own.keys() == expected.keys()
            assert all(torch.equal(own[name], expected[name]) for name in expected)
            selected = together.select([place]).tensors_of(0)
            assert all(torch.equal(selected[name], expected[name]) for name in expected)
            place += 1


@given(carriers)
def test_one_prompt_is_the_inverse_of_its_tensors(lengths: dict[str, int]) -> None:
    prompts = of_lengths(lengths, 3)
    again = Prompts.one(prompts.tensors_of(1))
    assert again.size == 1
    assert all(torch.equal(tensor[0], prompts.tensors[name][1]) for name, tensor in again.tensors.items())


@given(carriers)
def test_a_prompt_that_only_the_answer_sees_leaves_reading_alone(lengths: dict[str, int]) -> None:
    prompts = of_lengths(lengths, 1)
    assert prompts.leaves_reading == (not lengths.keys() & {"embeddings", "encoder"})
    assert prompts.reading_length == lengths.get("embeddings", 0) + lengths.get("encoder", 0)


def test_equal_lengths_need_no_mask() -> None:
    assert "decoder.mask" not in stack([of_lengths({"decoder": 2}, 1), of_lengths({"decoder": 2}, 2)]).tensors
    assert "decoder.mask" in stack([of_lengths({"decoder": 2}, 1), Prompts.bare()]).tensors


def test_prompts_without_positions_stay_so_among_others() -> None:
    without = of_lengths({"decoder": 2}, 2)
    without.tensors["decoder.relative"] = torch.tensor([False, False])
    together = stack([of_lengths({"decoder": 3}, 1), without])
    assert together.tensors["decoder.relative"].tolist() == [True, False, False]
    assert together.tensors_of(1)["decoder.keys"].shape == (2, 3, 2, 5)


@pytest.mark.parametrize("turned", [False, True])
def test_what_one_prompt_adds_another_of_the_carrier_does_not(turned: bool) -> None:
    """In whichever order their tensors come."""
    adding, plain = of_lengths({"after": 2}, 1), of_lengths({"after": 3}, 2)
    del plain.tensors["after.added"]
    if turned:
        adding = Prompts(dict(reversed(adding.tensors.items())))
    together = stack([adding, plain])
    assert together.tensors["after.mask"].tolist() == [[False, True, True], [True] * 3, [True] * 3]
    assert torch.equal(together.tensors_of(0)["after.added"], adding.tensors["after.added"][0])
    assert torch.equal(together.tensors_of(2)["after"], plain.tensors["after"][1])
    assert not together.tensors_of(2)["after.added"].any()


def test_what_is_added_is_of_a_layer_and_of_rows() -> None:
    prompts, states = of_lengths({"after": 2}, 2), torch.zeros(4, 7, 6, dtype=torch.bfloat16)
    added = prompts.tensors["after.added"]
    found = prompts.added("after", 1, states, torch.tensor([1, 0, 0, 1]))
    assert found is not None
    assert torch.equal(found, added[[1, 0, 0, 1], 0].bfloat16())  # before the second layer
    side_by_side = prompts.added("after", 3, states, None)
    assert side_by_side is not None
    assert torch.equal(side_by_side, added[[0, 0, 1, 1], 2].bfloat16())
    assert prompts.added("embeddings", 1, states, None) is None


def test_rows_are_an_argument() -> None:
    """The same prompts serve any batch, and remember none of them."""
    prompts, query = of_lengths({"decoder": 2}, 2), torch.zeros(4, 3, 1, 5)
    first = prompts.at("decoder", 1, query, torch.tensor([1, 0, 0, 1]))
    assert first is not None
    assert torch.equal(first.keys, prompts.tensors["decoder.keys"][[1, 0, 0, 1], 1])
    side_by_side = prompts.at("decoder", 1, query, None)
    assert side_by_side is not None
    assert torch.equal(side_by_side.by_row()[0], prompts.tensors["decoder.keys"][[0, 0, 1, 1], 1])
    beams = prompts.at("decoder", 1, query, torch.tensor([1, 0]))
    assert beams is not None
    assert torch.equal(beams.keys, prompts.tensors["decoder.keys"][[1, 1, 0, 0], 1])
    assert prompts.at("cross", 0, query, None) is None

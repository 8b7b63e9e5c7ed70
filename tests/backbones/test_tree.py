from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from preface.backbones.tree import Tree, Trees

START = 0
PIECES = [(5, 6, 1), (5, 7, 1), (5, 6, 8, 1), (9, 1)]
few_pieces = st.lists(st.integers(5, 8), min_size=1, max_size=4).map(tuple)  # few kinds, so that beginnings recur


def leading_to(tree: Tree, place: int) -> tuple[int, ...]:
    return () if place == 0 else (*leading_to(tree, tree.parents[place]), tree.inputs[place])


def test_the_tree_shares_the_start_and_common_beginnings() -> None:
    tree = Tree.of(PIECES, [START])
    assert tree.inputs == (START, 5, 6, 7, 8, 9)
    assert tree.parents == (-1, 0, 1, 1, 2, 0)
    assert tree.positions.tolist() == [0, 1, 2, 2, 3, 1]
    assert tree.mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    assert [(place, piece) for place, piece, label in tree.steps if label == 2] == [(0, 5), (1, 6), (2, 8), (4, 1)]


def test_no_place_is_made_for_what_nothing_follows() -> None:
    assert Tree.of([(5,), (6,), (7,)], [START]).inputs == (START,)
    assert Tree.of([(5,), (5, 6)], [START]).inputs == (START, 5)


@given(st.lists(few_pieces, min_size=1, max_size=6))
def test_each_word_can_be_read_off_the_tree(words: list[tuple[int, ...]]) -> None:
    tree = Tree.of(words, [START])
    for label, word in enumerate(words):
        steps = [(place, piece) for place, piece, owner in tree.steps if owner == label]
        assert [(leading_to(tree, place), piece) for place, piece in steps] == [
            (word[:length], piece) for length, piece in enumerate(word)
        ]
    assert len(tree.inputs) == len({word[:length] for word in words for length in range(len(word))})
    for place in range(len(tree.inputs)):
        seen = tree.mask[place].nonzero().flatten().tolist()
        assert tuple(tree.inputs[other] for other in seen[1:]) == leading_to(tree, place)
        assert tree.positions[place] == len(seen) - 1


def test_a_longer_lead_in_stands_before_all_words() -> None:
    tree = Tree.of(PIECES, [20, 21, 22])
    assert tree.inputs == (20, 21, 22, 5, 6, 7, 8, 9)
    assert tree.parents[:4] == (-1, 0, 1, 2)
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 4, 5, 3]
    assert [(place, piece) for place, piece, word in tree.steps if word == 3] == [(2, 9), (7, 1)]


def test_unlike_trees_are_padded_side_by_side() -> None:
    trees = Trees.of([Tree.of(PIECES, [START]), Tree.of([(7,), (8, 9)], [START])])
    rows = trees.of_rows(torch.tensor([1, 0, 1]))
    assert rows.inputs.tolist() == [[0, 8, 0, 0, 0, 0], [0, 5, 6, 7, 8, 9], [0, 8, 0, 0, 0, 0]]
    assert rows.mask[0].int().tolist()[:2] == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert rows.mask.any(-1).all()  # a place that sees nothing would be NaN
    assert (trees.words, rows.counts.tolist()) == (4, [2, 4, 2])
    assert trees.owners[1].tolist() == [0, 1, 1, *[4] * (trees.owners.shape[1] - 3)]

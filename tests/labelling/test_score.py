from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM

from preface.backbones.contexts import Inputs
from preface.backbones.t5 import Backbone
from preface.errors import UserError
from preface.labelling.score import LabelWords, Tree, generate, score, score_each
from preface.prompts import Injection, join
from tests.backbones.test_t5 import random_injection

WORDS = ("positive", "not good at all", "no")
TEXTS = ["a fine film", "dull", "it is long and it is not what I came to see , or is it ?", "one more"]


@pytest.fixture
def inputs(tiny: Backbone) -> list[list[int]]:
    return tiny.tokenize(TEXTS, 64)[0]


@torch.no_grad()
def test_ranks_as_transformers_scores_each_word_alone(tiny: Backbone, inputs, checkpoint_folder) -> None:
    """Words of several pieces side by side in one decoder pass, against a forward pass a word."""
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint_folder, dtype=torch.float32).eval()
    actual = score(tiny, inputs, LabelWords.of(tiny, WORDS))
    for row, ids in enumerate(inputs):
        for place, word in enumerate(WORDS):
            target = torch.tensor(tiny.tokenize([word], 16)[0])
            loss = model(input_ids=torch.tensor([ids]), labels=target).loss  # mean over the pieces
            assert float(actual[row, place]) == pytest.approx(-float(loss) * target.shape[1], abs=2e-3, rel=1e-4)


def test_ranks_under_a_prompt_as_the_forward_pass_does(tiny: Backbone, inputs) -> None:
    """Also the relative positions of a decoder prefix, word by word, and every row its own prompt."""
    injection, rows = random_injection(tiny), [2, 0, 1, 2]
    actual = score(tiny, inputs, LabelWords.of(tiny, WORDS), injection, rows)
    for row, ids in enumerate(inputs):
        for place, word in enumerate(WORDS):
            target, _ = tiny.pad(tiny.tokenize([word], 16)[0])
            padded, mask = tiny.pad([ids])
            with torch.no_grad():
                logits = tiny.forward(padded, mask, target, injection.on(torch.tensor([rows[row]])))
            expected = logits.log_softmax(-1).gather(2, target[..., None]).sum()
            assert float(actual[row, place]) == pytest.approx(float(expected), abs=2e-3, rel=1e-4)


PIECES = [(5, 6, 1), (5, 7, 1), (5, 6, 8, 1), (9, 1)]
few_pieces = st.lists(st.integers(5, 8), min_size=1, max_size=4).map(tuple)  # few kinds, so that beginnings recur


def labels_of(pieces: list[tuple[int, ...]]) -> LabelWords:
    return LabelWords(tuple(map(str, pieces)), tuple(pieces))


def leading_to(tree: Tree, place: int) -> tuple[int, ...]:
    return () if place == 0 else (*leading_to(tree, tree.parents[place]), tree.inputs[place])


def test_the_tree_shares_the_start_and_common_beginnings() -> None:
    tree = Tree.of(PIECES)
    assert tree.inputs == (-1, 5, 6, 7, 8, 9)
    assert tree.parents == (-1, 0, 1, 1, 2, 0)
    assert tree.positions.tolist() == [0, 1, 2, 2, 3, 1]
    assert tree.mask.squeeze().int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    assert [(place, piece) for place, piece, label in tree.steps if label == 2] == [(0, 5), (1, 6), (2, 8), (4, 1)]


def test_no_place_is_made_for_what_nothing_follows() -> None:
    assert Tree.of([(5,), (6,), (7,)]).inputs == (-1,)
    assert Tree.of([(5,), (5, 6)]).inputs == (-1, 5)


@given(st.lists(few_pieces, min_size=1, max_size=6))
def test_each_word_can_be_read_off_the_tree(words: list[tuple[int, ...]]) -> None:
    tree = Tree.of(words)
    for label, word in enumerate(words):
        steps = [(place, piece) for place, piece, owner in tree.steps if owner == label]
        assert [(leading_to(tree, place), piece) for place, piece in steps] == [
            (word[:length], piece) for length, piece in enumerate(word)
        ]
    assert len(tree.inputs) == len({word[:length] for word in words for length in range(len(word))})
    for place in range(len(tree.inputs)):
        seen = tree.mask[0, 0, place].nonzero().flatten().tolist()
        assert tuple(tree.inputs[other] for other in seen[1:]) == leading_to(tree, place)
        assert tree.positions[place] == len(seen) - 1


@pytest.fixture(scope="module")
def reference(checkpoint_folder):
    return AutoModelForSeq2SeqLM.from_pretrained(checkpoint_folder, dtype=torch.float32).eval()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(2, 40), min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(few_pieces, min_size=2, max_size=5, unique=True),
)
def test_any_words_score_as_transformers_scores_each_alone(tiny: Backbone, reference, inputs, words) -> None:
    """Also a word that is the beginning of another."""
    actual = score(tiny, inputs, labels_of(words))
    for row, ids in enumerate(inputs):
        for place, word in enumerate(words):
            with torch.no_grad():
                loss = reference(input_ids=torch.tensor([ids]), labels=torch.tensor([word])).loss
            assert float(actual[row, place]) == pytest.approx(-float(loss) * len(word), abs=2e-3, rel=1e-4)


@pytest.mark.parametrize("rows", [[2, 0, 1, 2], None])
def test_beginnings_shared_under_a_prompt_score_as_each_word_alone(
    tiny: Backbone, inputs, rows: list[int] | None
) -> None:
    injection = random_injection(tiny)
    together = score(tiny, inputs, labels_of(PIECES), injection, rows)
    for place, word in enumerate(PIECES):
        alone = score(tiny, inputs, labels_of([word]), injection, rows)
        torch.testing.assert_close(together[:, place], alone[:, 0], atol=1e-3, rtol=1e-4)


def of_all_kinds(backbone: Backbone) -> Injection:
    """Five prompts of unlike carriers and lengths, so padded and masked."""
    full, short = random_injection(backbone, 1, 4, 2), random_injection(backbone, 2, 2, 1)
    return join(
        [
            full,
            Injection(embeddings=short.embeddings),
            Injection(decoder=random_injection(backbone, 3, 7, 1).decoder),
            random_injection(backbone, 4, 3, 1, embeddings=False),
        ]
    )


@pytest.mark.parametrize("kind", ["all sites", "decoder alone", "all kinds"])
@pytest.mark.parametrize("budget", [8192, 60])
def test_each_prompt_scores_as_it_does_row_by_row(
    tiny: Backbone, inputs, kind: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, words = random_injection(tiny), LabelWords.of(tiny, WORDS)
    injection = {
        "all sites": whole,
        "decoder alone": Injection(decoder=whole.decoder, cross=whole.cross),
        "all kinds": of_all_kinds(tiny),
    }[kind]
    expected = torch.stack(
        [score(tiny, inputs, words, injection, [prompt] * len(inputs)) for prompt in range(injection.size)]
    )
    assert (expected[0] - expected[1]).abs().max() > 0.1
    monkeypatch.setattr("preface.labelling.score.TOKEN_BUDGET", budget)
    done: list[int] = []
    actual = score_each(tiny, inputs, words, injection, done.append)
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)
    assert sum(done) == injection.size * len(inputs)
    assert (len(done) > 1) == (budget == 60)


def test_kept_states_score_the_same(tiny: Backbone, inputs) -> None:
    whole, words = random_injection(tiny), LabelWords.of(tiny, WORDS)
    injection = Injection(decoder=whole.decoder, cross=whole.cross)
    kept, plain = (score_each(tiny, Inputs(tiny, inputs, keep=keep), words, injection) for keep in (True, False))
    torch.testing.assert_close(kept, plain, atol=1e-3, rtol=1e-4)


def test_members_score_as_they_do_among_all(tiny: Backbone, inputs) -> None:
    injection, words = of_all_kinds(tiny), LabelWords.of(tiny, WORDS)
    everyone = score_each(tiny, inputs, words, injection)
    chosen = score_each(tiny, inputs, words, injection.members([4, 1]))
    torch.testing.assert_close(chosen, everyone[[4, 1]], atol=1e-3, rtol=1e-4)


def test_batches_do_not_matter(tiny: Backbone, inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, injection = LabelWords.of(tiny, WORDS), random_injection(tiny)
    whole = score(tiny, inputs, labels, injection, [0, 1, 2, 0])
    monkeypatch.setattr("preface.labelling.score.TOKEN_BUDGET", 12)
    done: list[int] = []
    torch.testing.assert_close(
        score(tiny, inputs, labels, injection, [0, 1, 2, 0], done.append), whole, atol=1e-3, rtol=1e-4
    )
    assert sum(done) == len(inputs)
    assert len(done) > 1


def test_prompts_of_different_kinds_in_one_batch(tiny: Backbone, inputs) -> None:
    labels = LabelWords.of(tiny, WORDS)
    one, two = random_injection(tiny, 1, 3, 1), random_injection(tiny, 2, 6, 1, embeddings=False)
    mixed = score(tiny, inputs, labels, join([one, two]), [0, 1, 0, 1])
    for row, prompt in enumerate((one, two, one, two)):
        torch.testing.assert_close(mixed[row], score(tiny, [inputs[row]], labels, prompt)[0], atol=1e-3, rtol=1e-4)


def test_generates_in_order(nano: Backbone) -> None:
    texts = [
        "review sentiment: a lovely film , moving and funny",
        "review sentiment: dull and stupid . a waste of time",
    ]
    written = generate(nano, nano.tokenize(texts * 2, 64)[0])
    assert written == ["positive", "negative"] * 2


@pytest.mark.parametrize(
    ("words", "says"),
    [(["one"], "two different"), (["yes", "☃"], "does not fit"), (["yes", ""], "does not fit")],
)
def test_words_that_cannot_be_labels(nano: Backbone, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        LabelWords.of(nano, words)


def test_words_with_the_same_pieces(nano: Backbone) -> None:
    with pytest.raises(UserError, match="same pieces"):
        LabelWords.of(nano, ["good times", "good\u00a0times"])

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.tree import Tree
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts, stack
from tests.backbones.test_t5 import forward, only, random_prompts
from tests.conftest import close

WORDS = ("positive", "not good at all", "no")
TEXTS = ["a fine film", "dull", "it is long and it is not what I came to see , or is it ?", "one more"]


def score(
    backbone: Backbone,
    inputs: list[list[int]],
    words: LabelWords | list[LabelWords],
    prompts: Prompts | None = None,
    rows: list[int] | None = None,
    on_batch=lambda rows: None,
) -> torch.Tensor:
    return Labeller(backbone, prompts or Prompts.bare(), words).label(Inputs(backbone, inputs), rows, on_batch)


def score_each(
    backbone: Backbone, inputs: list[list[int]], words: LabelWords, prompts: Prompts, on_batch=lambda rows: None
) -> torch.Tensor:
    return Labeller(backbone, prompts, words).label_each(Inputs(backbone, inputs), on_batch)


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
    prompts, rows = random_prompts(tiny), [2, 0, 1, 2]
    actual = score(tiny, inputs, LabelWords.of(tiny, WORDS), prompts, rows)
    for row, ids in enumerate(inputs):
        for place, word in enumerate(WORDS):
            target, _ = tiny.pad(tiny.tokenize([word], 16)[0])
            padded, mask = tiny.pad([ids])
            with torch.no_grad():
                logits = forward(tiny, padded, mask, target, prompts, torch.tensor([rows[row]]))
            expected = logits.log_softmax(-1).gather(2, target[..., None]).sum()
            assert float(actual[row, place]) == pytest.approx(float(expected), abs=2e-3, rel=1e-4)


PIECES = [(5, 6, 1), (5, 7, 1), (5, 6, 8, 1), (9, 1)]
few_pieces = st.lists(st.integers(5, 8), min_size=1, max_size=4).map(tuple)  # few kinds, so that beginnings recur


def labels_of(pieces: list[tuple[int, ...]]) -> LabelWords:
    return LabelWords(tuple(map(str, pieces)), tuple(pieces), (0,))


@pytest.fixture(scope="module")
def reference(checkpoint_folder):
    return AutoModelForSeq2SeqLM.from_pretrained(checkpoint_folder, dtype=torch.float32).eval()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(2, 40), min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(few_pieces, min_size=2, max_size=5, unique=True),
)
def test_any_words_score_as_transformers_scores_each_alone(tiny_float32: Backbone, reference, inputs, words) -> None:
    """Also a word that is the beginning of another."""
    actual = score(tiny_float32, inputs, labels_of(words))
    for row, ids in enumerate(inputs):
        for place, word in enumerate(words):
            with torch.no_grad():
                loss = reference(input_ids=torch.tensor([ids]), labels=torch.tensor([word])).loss
            assert float(actual[row, place]) == pytest.approx(-float(loss) * len(word), abs=2e-3, rel=1e-4)


@pytest.mark.precision
@pytest.mark.parametrize("rows", [[2, 0, 1, 2], None])
def test_beginnings_shared_under_a_prompt_score_as_each_word_alone(
    tiny: Backbone, inputs, rows: list[int] | None
) -> None:
    prompts = random_prompts(tiny)
    together = score(tiny, inputs, labels_of(PIECES), prompts, rows)
    for place, word in enumerate(PIECES):
        alone = score(tiny, inputs, labels_of([word]), prompts, rows)
        close(tiny, together[:, place], alone[:, 0])


def after_reading(prompts: Prompts) -> Prompts:
    return Prompts({**only(prompts, "decoder").tensors, **only(prompts, "cross").tensors})


def of_all_kinds(backbone: Backbone) -> Prompts:
    """Five prompts of unlike carriers and lengths, so padded and masked."""
    full, short = random_prompts(backbone, 1, 4, 2), random_prompts(backbone, 2, 2, 1)
    return stack(
        [
            full,
            only(short, "embeddings"),
            only(random_prompts(backbone, 3, 7, 1), "decoder"),
            random_prompts(backbone, 4, 3, 1, embeddings=False),
        ]
    )


@pytest.mark.precision
@pytest.mark.parametrize("kind", ["all sites", "decoder alone", "all kinds"])
@pytest.mark.parametrize("budget", [8192, 60])
def test_each_prompt_scores_as_it_does_row_by_row(
    tiny: Backbone, inputs, kind: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, words = random_prompts(tiny), LabelWords.of(tiny, WORDS)
    prompts = {
        "all sites": whole,
        "decoder alone": after_reading(whole),
        "all kinds": of_all_kinds(tiny),
    }[kind]
    expected = torch.stack(
        [score(tiny, inputs, words, prompts, [prompt] * len(inputs)) for prompt in range(prompts.size)]
    )
    assert (expected[0] - expected[1]).abs().max() > 0.1
    monkeypatch.setattr("preface.labelling.labeller.TOKEN_BUDGET", budget)
    done: list[int] = []
    actual = score_each(tiny, inputs, words, prompts, done.append)
    close(tiny, actual, expected)
    assert sum(done) == prompts.size * len(inputs)
    assert (len(done) > 1) == (budget == 60)


@pytest.mark.precision
def test_another_prompt_is_not_taken_for_rounding(tiny: Backbone, inputs) -> None:
    scores = score_each(tiny, inputs, LabelWords.of(tiny, WORDS), random_prompts(tiny))
    for one, other in ((0, 1), (1, 2), (2, 0)):
        with pytest.raises(AssertionError):
            close(tiny, scores[one], scores[other])


@pytest.mark.precision
def test_kept_contexts_score_the_same(tiny: Backbone, inputs) -> None:
    whole, words = random_prompts(tiny), LabelWords.of(tiny, WORDS)
    prompts = after_reading(whole)
    kept, plain = (Labeller(tiny, prompts, words).label_each(Inputs(tiny, inputs, keep=keep)) for keep in (True, False))
    close(tiny, kept, plain)


@pytest.mark.precision
def test_members_score_as_they_do_among_all(tiny: Backbone, inputs) -> None:
    prompts, words = of_all_kinds(tiny), LabelWords.of(tiny, WORDS)
    everyone = score_each(tiny, inputs, words, prompts)
    chosen = score_each(tiny, inputs, words, prompts.select([4, 1]))
    close(tiny, chosen, everyone[[4, 1]])


@pytest.mark.precision
def test_batches_do_not_matter(tiny: Backbone, inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, prompts = LabelWords.of(tiny, WORDS), random_prompts(tiny)
    whole = score(tiny, inputs, labels, prompts, [0, 1, 2, 0])
    monkeypatch.setattr("preface.labelling.labeller.TOKEN_BUDGET", 12)
    done: list[int] = []
    close(tiny, score(tiny, inputs, labels, prompts, [0, 1, 2, 0], done.append), whole)
    assert sum(done) == len(inputs)
    assert len(done) > 1


@pytest.mark.precision
def test_prompts_of_different_kinds_in_one_batch(tiny: Backbone, inputs) -> None:
    labels = LabelWords.of(tiny, WORDS)
    one, two = random_prompts(tiny, 1, 3, 1), random_prompts(tiny, 2, 6, 1, embeddings=False)
    mixed = score(tiny, inputs, labels, stack([one, two]), [0, 1, 0, 1])
    for row, prompt in enumerate((one, two, one, two)):
        close(tiny, mixed[row], score(tiny, [inputs[row]], labels, prompt)[0])


def test_generates_in_order(nano: Backbone) -> None:
    texts = [
        "review sentiment: a lovely film , moving and funny",
        "review sentiment: dull and stupid . a waste of time",
    ]
    labeller = Labeller(nano, Prompts.bare(2), LabelWords.of(nano, ["positive", "negative"]))
    written = labeller.generate_each(Inputs(nano, nano.tokenize(texts * 2, 64)[0]))
    assert written == [["positive", "negative"] * 2] * 2


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


@pytest.mark.precision
def test_rows_of_several_tasks_and_the_bare_model_in_one_batch(tiny: Backbone, inputs) -> None:
    """Every prompt has label words of its own; the bare model is one row among others."""
    kinds = [random_prompts(tiny, 1, 3, 1), Prompts.bare(), only(random_prompts(tiny, 2, 6, 1), "decoder")]
    words = [LabelWords.of(tiny, w) for w in (WORDS, ("yes", "no"), ("a good thing", "bad", "so so", "fair enough"))]
    rows = [2, 0, 1, 2]
    mixed = score(tiny, inputs, words, stack(kinds), rows)
    assert mixed.shape == (4, 4)
    for row, prompt in enumerate(rows):
        alone = score(tiny, [inputs[row]], words[prompt], kinds[prompt])[0]
        count = len(words[prompt].words)
        close(tiny, mixed[row, :count], alone)
        assert (mixed[row, count:] == -torch.inf).all()
    each = Labeller(tiny, stack(kinds), words).label_each(Inputs(tiny, inputs))
    for row, prompt in enumerate(rows):
        close(tiny, each[prompt, row], mixed[row])


@pytest.mark.precision
def test_a_bare_model_beside_prompts_is_not_scored_under_one(tiny: Backbone, inputs) -> None:
    words = LabelWords.of(tiny, WORDS)
    both = score_each(tiny, inputs, words, stack([Prompts.bare(), random_prompts(tiny, size=1)]))
    close(tiny, both[0], score(tiny, inputs, words))
    assert (both[0] - both[1]).abs().max() > 0.1


def test_many_labels_take_bounded_memory(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows answer together as their trees of labels allow."""
    words = LabelWords.of(tiny, [f"{first} {second}" for first in "abcdefgh" for second in "stuvwxyz"])
    texts = [[5, 6, 1]] * 40
    places = len(Tree.of(words.pieces, words.lead_in).parents)
    largest = []
    answer = tiny.answer
    monkeypatch.setattr(
        tiny, "answer", lambda context, ids, *a: largest.append(ids.numel()) or answer(context, ids, *a)
    )
    plain = score(tiny, texts, words)
    monkeypatch.setattr("preface.labelling.labeller.ANSWER_BYTES", 2**20)
    few = score(tiny, texts, words)
    torch.testing.assert_close(few, plain, atol=1e-3, rtol=1e-4)
    assert largest[0] == 40 * places
    assert max(largest[1:]) * (3 * (places + 3) + 4 * 24) * 4 <= 2**20


@pytest.mark.precision
def test_many_labels_are_ranked_in_parts(tiny: Backbone, inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of many labels beside one of two, under prompts of their own."""
    many = LabelWords.of(tiny, [f"{first} {second}" for first in "abcdefgh" for second in "stuvwxyz"])
    words, prompts = [many, LabelWords.of(tiny, ("yes", "no"))], random_prompts(tiny, size=2)
    whole = score(tiny, inputs, words, prompts, [0, 1, 0, 1])
    monkeypatch.setattr("preface.backbones.tree.PLACES", 20)
    labeller = Labeller(tiny, prompts, words)
    assert len(labeller.trees) > 3
    assert labeller.scored == (64,)
    close(tiny, labeller.label(Inputs(tiny, inputs), [0, 1, 0, 1]), whole)

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from preface.backbone import Backbone
from preface.errors import UserError
from preface.injection import join
from preface.score import LabelWords, generate, score
from tests.test_backbone import random_injection

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


def test_batches_do_not_matter(tiny: Backbone, inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, injection = LabelWords.of(tiny, WORDS), random_injection(tiny)
    whole = score(tiny, inputs, labels, injection, [0, 1, 2, 0])
    monkeypatch.setattr("preface.score.TOKEN_BUDGET", 12)
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

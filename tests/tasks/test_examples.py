"""What the card of the embedded examples says of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain

import pytest

from preface.tasks.find import EMBEDDED

SIZES = {
    "film_train": 410,
    "film_validation": 100,
    "film_test": 150,
    "reviews": 150,
    "company_news": 150,
    "posts": 150,
}


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EMBEDDED / f"{name}.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.mark.parametrize("name", SIZES)
def test_balanced_and_of_the_size_stated(name: str) -> None:
    labels = Counter(row["label"] for row in rows(name))
    assert labels == {"negative": SIZES[name] // 2, "positive": SIZES[name] // 2}
    assert all(set(row) == {"text", "label"} and row["text"].strip() == row["text"] for row in rows(name))


def test_no_text_stands_twice() -> None:
    texts = [" ".join(words(row["text"])) for name in SIZES for row in rows(name)]
    assert len(set(texts)) == len(texts) == sum(SIZES.values())


def test_no_word_gives_the_label_away_in_more_than_a_small_share_of_rows() -> None:
    film = list(chain.from_iterable(rows(name) for name in SIZES if name.startswith("film")))
    seen, positive = Counter(), Counter()
    for row in film:
        for word in set(words(row["text"])):
            seen[word] += 1
            positive[word] += row["label"] == "positive"
    for word, count in seen.items():
        share = max(positive[word], count - positive[word]) / count
        if count >= 12:
            assert share <= 0.84, word
        if share > 0.8:
            assert count / len(film) < 0.03, word


def test_varied_in_length_with_negation_and_contrast() -> None:
    film = [row["text"] for row in rows("film_train")]
    lengths = [len(words(text)) for text in film]
    assert min(lengths) <= 6
    assert max(lengths) >= 28
    negated = sum(bool(re.search(r"\b(not|no|never|nothing|nobody)\b|n't", text.lower())) for text in film)
    contrasted = sum(bool(re.search(r"\b(but|yet|although|though|despite)\b", text.lower())) for text in film)
    assert negated > 40
    assert contrasted > 40

"""Templates, and texts cut where they are long."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.tasks import Example, Template, render

EOS = 0
NAMES = ("a", "b", "c")
QUESTION = "{text}\n\nIs the sentiment of this text positive or negative?"


def by_characters(texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
    ids = [[ord(character) for character in text] for text in texts]
    return [[*each[: max_tokens - 1], EOS] for each in ids], [len(each) >= max_tokens for each in ids]


def by_words(texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
    """Words of at most three characters, so that cutting by characters may change how many there are."""
    ids = [[hash(word[i : i + 3]) for word in text.split() for i in range(0, len(word), 3)] for text in texts]
    return [[*each[: max_tokens - 1], EOS] for each in ids], [len(each) >= max_tokens for each in ids]


def read(ids: list[int]) -> str:
    assert ids[-1] == EOS
    return "".join(map(chr, ids[:-1]))


def made(template: str, **fields: str) -> Example:
    return Example(fields, None, Template.parse(template))


@settings(max_examples=300, deadline=None)
@given(
    literals=st.lists(st.text("xyz {}?", max_size=9), min_size=4, max_size=4),
    names=st.permutations(NAMES),
    fields=st.fixed_dictionaries({name: st.text("abc ", max_size=60).map(str.strip) for name in NAMES}),
    max_tokens=st.integers(45, 120),
)
def test_what_a_template_says_stays(
    literals: list[str], names: list[str], fields: dict[str, str], max_tokens: int
) -> None:
    template = Template(tuple(zip(literals, [*names, None], strict=True)))
    example = Example(fields, None, template)
    for tokenize in (by_characters, by_words):
        (ids,), (cut,) = render(tokenize, [example], max_tokens)
        (whole,), (too_long,) = tokenize([example.text], max_tokens)
        assert len(ids) <= max_tokens
        assert ids[-1] == EOS
        assert cut == too_long
        if not cut:
            assert ids == whole
    (ids,), (cut,) = render(by_characters, [example], max_tokens)
    text, long = read(ids), max(map(len, fields.values()))
    # some length is right for every field: the text is the whole text with fields of at most so many characters
    tried = {template.render({k: v[:n].rstrip() for k, v in fields.items()}): n for n in reversed(range(long + 1))}
    assert text in tried
    if cut:  # and it is the largest
        assert all(len(other) >= max_tokens for other, n in tried.items() if n > tried[text])


def test_the_long_field_is_cut_at_its_end() -> None:
    example = made("{premise} So {hypothesis}?", premise="p" * 50 + "!", hypothesis="a short one")
    ((ids,), cut) = render(by_characters, [example], 40)
    assert (read(ids), cut) == ("p" * 23 + " So a short one?", [True])
    both = made("{a} / {b} / {c}.", a="a" * 90, b="b" * 60, c="c")
    ((ids,), cut) = render(by_characters, [both], 29)
    assert (read(ids), cut) == (f"{'a' * 10} / {'b' * 10} / c.", [True])


def test_one_field_alone_is_cut_as_a_tokenizer_cuts(nano: Backbone) -> None:
    texts = ["a film that is long " * 9 + "!", "short", "so good " * 30 + "!"]
    for limit in (1, 2, 7, 64, 512):
        assert render(nano.tokenize, [Example.of(text) for text in texts], limit) == nano.tokenize(texts, limit)


def test_texts_that_fit_are_tokenised_as_they_are(nano: Backbone) -> None:
    examples = [made("{a} and then: {b}?", a=a, b="why  not") for a in ("one", "two  words", "x" * 20)]
    assert render(nano.tokenize, examples, 64) == nano.tokenize([example.text for example in examples], 64)


@pytest.mark.parametrize("limit", [24, 64, 257])
def test_a_long_review_keeps_its_question(nano: Backbone, limit: int) -> None:
    text = "It begins well, and then it goes on and on. " * 90
    examples = [Example.of(text), Example.of("Good."), made("Title: {title} Review: {text}", title="Up", text=text)]
    ids, cut = render(nano.tokenize, examples, limit, QUESTION)
    assert cut == [True, False, True]
    said = [nano.tokenizer.decode(each, skip_special_tokens=True) for each in ids]
    assert all(each.endswith("Is the sentiment of this text positive or negative?") for each in said)
    assert said[2].startswith("Title: Up Review: It")
    assert limit - 1 <= len(ids[0]) <= limit
    assert ids[1] == nano.tokenize(["Good.\n\nIs the sentiment of this text positive or negative?"], 512)[0][0]


def test_an_instruction_takes_the_fields_of_the_template() -> None:
    example = made("{a} | {b}", a="one", b="two")
    for template, text in (("{text}", "one | two"), ("{b}, {a}", "two, one"), ("{{{text}}} {a}!", "{one | two} one!")):
        assert read(render(by_characters, [example], 99, template)[0][0]) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{c}", "template: there is no field {c}; there are {text}, {a}, {b}"),
        ("none", "template names no field; {text} stands for the input"),
        ("{", "template '{': "),
        ("{text} and many more words of its own", "template: its own words take 31 tokens, and an input may have 30"),
    ],
)
def test_templates_that_cannot_be_rendered(template: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        render(by_characters, [made("{a}{b}", a="a" * 20, b="b" * 20)], 30, template)
    assert str(caught.value).startswith(said)


def test_many_long_texts_take_few_turns() -> None:
    calls = []

    def counting(texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        calls.append(len(texts))
        return by_words(texts, max_tokens)

    examples = [made("{a} What is it?", a="some words and " * (100 + 7 * i)) for i in range(200)]
    ids, cut = render(counting, examples, 64)
    assert all(cut)
    assert {len(each) for each in ids} <= {63, 64}
    assert sum(calls) / len(examples) < 10

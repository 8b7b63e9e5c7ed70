"""A corpus as tokens: what is kept, what is dropped, and that an interruption changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preface.errors import UserError
from preface.pretraining import tokens as module
from preface.pretraining.tokens import Tokens, tokenize
from preface.records.lock import LOCK
from preface.tasks import load_split


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def documents(tokens: Tokens, split: str) -> list[str]:
    ids = getattr(tokens, split)
    ends = np.flatnonzero(ids == tokens.tokenizer.eos_token_id) + 1
    assert len(ids) == (ends[-1] if len(ends) else 0)
    return [tokens.tokenizer.decode(part[:-1]) for part in np.split(ids, ends)[:-1]]


def dropped(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def inputs(least: int, most: int) -> list[str]:
    """Test inputs of so many words."""
    return [e.text for e in load_split("film", "test").examples if least <= len(e.text.split()) <= most]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    return write(tmp_path / "corpus.txt", texts)


def test_all_documents_are_there_once_with_their_end(tmp_path: Path, corpus: Path, texts: list[str]) -> None:
    tokens = tokenize([corpus], tmp_path / "out", vocabulary=600, held_out=500)
    whole = [" ".join(text.split()) for text in dict.fromkeys(texts)]
    train, validation = documents(tokens, "train"), documents(tokens, "validation")
    assert sorted(train + validation) == sorted(whole)
    assert [text for text in whole if text in set(train)] == train
    assert 0 < len(validation) <= 0.1 * len(whole)
    card = tokens.card
    assert tokens.train.dtype == np.dtype("<u2")
    assert not tokens.train.flags.writeable
    assert card["tokens"] == {"train": len(tokens.train), "validation": len(tokens.validation)}
    assert card["documents"] == {"train": len(train), "validation": len(validation)}
    assert card["sources"][0]["documents"] == len(texts)
    assert card["vocabulary"] == len(tokens.tokenizer) == 600
    assert (card["dropped"], card["duplicates"]) == ({}, len(texts) - len(whole))
    assert len(card["sha256"]) == 64
    assert set(files(tmp_path / "out")) == {
        LOCK,
        "dropped.jsonl",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokens.json",
        "train.bin",
        "validation.bin",
    }


def test_evaluation_inputs_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    short, long = inputs(6, 9)[0], inputs(20, 40)[0]
    run = long.split()[3:16]
    filler = [f"word{i}" for i in range(3000)]
    cut = " ".join([*filler[:990], *long.split(), *filler[990:2500]])
    lines = [
        f"Kept number one. {' '.join(run[:11])} and on.",
        short,
        f"He said: “{short.upper()}!!!” And she: no",
        " ".join([*filler[:50], *run[:12], *filler[60:90]]),
        cut,
        "Kept number two.",
    ]
    source = write(tmp_path / "corpus.txt", lines)
    tokens = tokenize([source], tmp_path / "out", tokenizer="nano", keep_out=["film", "posts"], held_out=0)
    listed = dropped(tmp_path / "out")
    places = [f"line {line}" for line in ("2", "3", "4", "5 piece 1", "5 piece 2")]
    assert [each["place"] for each in listed] == [f"{source} {place}" for place in places]
    assert {each["task"] for each in listed} == {"film"}
    assert all(len(each["words"].split()) == 12 for each in listed[2:])
    assert tokens.card["dropped"] == {"film": 5}
    assert tokens.card["kept_out_inputs"] == 250 + len(load_split("posts", "test").examples)
    last = " ".join(cut.split()[2000:])
    assert documents(tokens, "train") == [lines[0], last, lines[5]]
    assert len(tokens.validation) == 0


def test_duplicates_are_dropped_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    first = write(tmp_path / "a.txt", ["Once  more.", "other", "once more."])
    second = write(tmp_path / "b.txt", ["ONCE MORE.", "new"])
    tokens = tokenize([first, second], tmp_path / "out", tokenizer="nano", held_out=0)
    assert documents(tokens, "train") == ["Once more.", "other", "new"]
    assert tokens.card["duplicates"] == 2
    assert [each["documents"] for each in tokens.card["sources"]] == [3, 2]


def test_long_documents_are_cut(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(2001)]
    source = write(tmp_path / "a.txt", [" ".join(words)])
    tokens = tokenize([source], tmp_path / "out", tokenizer="nano", held_out=0)
    assert [len(text.split()) for text in documents(tokens, "train")] == [1000, 1000, 1]
    assert " ".join(documents(tokens, "train")).split() == words


def test_names_of_special_tokens_are_no_special_tokens(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", ["A <extra_id_0> film</s> <pad> plot."])
    tokens = tokenize([source], tmp_path / "out", tokenizer="nano", held_out=0)
    special = np.isin(tokens.train, tokens.tokenizer.all_special_ids)
    assert special.sum() == special[-1] == 1
    assert documents(tokens, "train") == ["A film plot."]


def test_validation_does_not_depend_on_the_order(tmp_path: Path, texts: list[str]) -> None:
    there = write(tmp_path / "a.txt", texts)
    back = write(tmp_path / "b.txt", texts[::-1])
    one = tokenize([there], tmp_path / "one", tokenizer="nano", held_out=400)
    other = tokenize([back], tmp_path / "other", tokenizer="nano", held_out=400)
    assert sorted(documents(one, "validation")) == sorted(documents(other, "validation")) != []


def test_large_vocabularies_take_four_bytes(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tokenize([corpus], tmp_path / "narrow", tokenizer="nano")
    monkeypatch.setattr(module, "WIDE", 16384)
    wide = tokenize([corpus], tmp_path / "wide", tokenizer="nano")
    assert wide.train.dtype == np.dtype("<u4")
    assert np.array_equal(wide.train, narrow.train)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3, 9])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_an_interruption_changes_nothing(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch, stop: int, seconds: float
) -> None:
    planted = inputs(6, 9)
    mixed = [text for pair in zip(texts, planted * 50, strict=False) for text in pair]
    source = write(tmp_path / "corpus.txt", mixed)
    monkeypatch.setattr(module, "BATCH", 40)
    monkeypatch.setattr(module, "SECONDS", seconds)
    encode = module._encode
    calls = 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise StoppedError
        return encode(*arguments)

    def go(folder: str) -> Tokens:
        return tokenize([source], tmp_path / folder, vocabulary=500, keep_out=["film"], held_out=500)

    go("whole")
    monkeypatch.setattr(module, "_encode", stopping)
    with pytest.raises(StoppedError):
        go("stopped")
    with pytest.raises(UserError, match="is not finished; run the same command again"):
        Tokens.open(tmp_path / "stopped")
    go("stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_finished_folder_is_not_made_again(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def go() -> Tokens:
        return tokenize([corpus], tmp_path / "out", tokenizer="nano", keep_out=["film"])

    first = go()
    monkeypatch.setattr(module, "iter_documents", lambda *_: pytest.fail("it reads the corpus"))
    again = go()
    assert again.card == first.card
    assert np.array_equal(again.train, first.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None, "vocabulary": 600}, "tokenizer was nano, now it is None"),
        ({"held_out": 7}, "held_out was 200000, now it is 7"),
        ({"keep_out": ["posts"]}, "keep_out was ['film'], now it is ['posts']"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_question(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str, finished: bool
) -> None:
    options: dict[str, Any] = {"tokenizer": "nano", "keep_out": ["film"]}
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(module, "_batches", lambda *_: (_ for _ in ()).throw(StoppedError))
        try:
            tokenize([corpus], tmp_path / "out", **options)
        except StoppedError:
            assert not finished
    with pytest.raises(UserError) as error:
        tokenize([corpus], tmp_path / "out", **(options | change))
    assert message in str(error.value)
    corpus.write_text("other text\n")
    with pytest.raises(UserError, match="another configuration: sources"):
        tokenize([corpus], tmp_path / "out", **options)


@pytest.mark.parametrize("finished", [True, False])
def test_other_inputs_to_keep_out(
    tmp_path: Path, corpus: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    def go() -> Tokens:
        return tokenize([corpus], tmp_path / "out", tokenizer="nano", keep_out=[str(data_file)])

    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(module, "_batches", lambda *_: (_ for _ in ()).throw(StoppedError))
        with nullcontext() if finished else pytest.raises(StoppedError):
            go()
    with data_file.open("a") as file:
        file.write('{"text": "one more thing that may not be trained on", "label": "yes"}\n')
    with pytest.raises(UserError, match=r"out: was begun with other texts of .*rows\.jsonl; give another --out"):
        go()


def test_a_finished_folder_of_a_version_without_the_fingerprint(tmp_path: Path, corpus: Path) -> None:
    def go() -> Tokens:
        return tokenize([corpus], tmp_path / "out", tokenizer="nano", keep_out=["film"])

    card = go().card
    del card["kept_out_fingerprint"]
    (tmp_path / "out" / "tokens.json").write_text(json.dumps(card))
    assert go().card == card


@pytest.mark.parametrize("when", ["_new", "_write"])
def test_a_second_one_in_the_folder_is_refused(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    other, refused = write(tmp_path / "other.txt", ["another text"]), []
    work = getattr(module, when)

    def with_another(*arguments: Any) -> Any:
        with pytest.raises(UserError, match="out: another process is at work there") as caught:
            tokenize([other], tmp_path / "out", tokenizer="nano")
        refused.append(caught)
        return work(*arguments)

    monkeypatch.setattr(module, when, with_another)
    tokens = tokenize([corpus], tmp_path / "out", tokenizer="nano")
    assert len(refused) == 1
    assert [Path(source["name"]).name for source in tokens.card["sources"]] == ["corpus.txt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "out" / LOCK).mkdir(parents=True)  # no file can be there
    with pytest.raises(UserError, match=r"out: cannot be written \(.*; give another --out"):
        tokenize([corpus], tmp_path / "out", tokenizer="nano")


def shortened(folder: Path) -> None:
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])


def without_validation(folder: Path) -> None:
    (folder / "validation.bin").unlink()


def no_card(folder: Path) -> None:
    (folder / "tokens.json").write_text("{}")


def another_card(folder: Path) -> None:
    (folder / "tokens.json").write_text("[]")


@pytest.mark.parametrize("damage", [shortened, without_validation, no_card, another_card])
def test_damaged_folders(tmp_path: Path, corpus: Path, damage: Callable[[Path], None]) -> None:
    tokenize([corpus], tmp_path / "out", tokenizer="nano")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match="out: is damaged"):
        Tokens.open(tmp_path / "out")


def test_no_folder_no_text_no_tokenizer_no_task(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokens \(there is no tokens.json\)"):
        Tokens.open(tmp_path / "none")
    blank = write(tmp_path / "blank.txt", ["", " "])
    with pytest.raises(UserError, match="the corpus has no text"):
        tokenize([blank], tmp_path / "out", tokenizer="nano")
    with pytest.raises(UserError, match=r"tokenizer .*none: cannot be loaded"):
        tokenize([corpus], tmp_path / "out", tokenizer=tmp_path / "none")
    with pytest.raises(UserError, match="no task is called 'filmz'"):
        tokenize([corpus], tmp_path / "out", tokenizer="nano", keep_out=["filmz"])
    with pytest.raises(UserError, match=r"corpus.txt: cannot be written \(File exists\)"):
        tokenize([corpus], corpus, tokenizer="nano")

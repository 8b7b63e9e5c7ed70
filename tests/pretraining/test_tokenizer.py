"""A trained tokenizer is one of T5's kind, and is loaded back as it was."""

from __future__ import annotations

import pytest
import sentencepiece
from transformers import AutoTokenizer, TokenizersBackend

from preface.errors import UserError
from preface.pretraining.tokenizer import SENTINELS, _trained, train_tokenizer

SIZE = 600


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> TokenizersBackend:
    return train_tokenizer(iter(texts), SIZE)


@pytest.fixture(scope="module")
def loaded(tokenizer: TokenizersBackend, tmp_path_factory: pytest.TempPathFactory) -> TokenizersBackend:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_stand_where_t5_has_them(loaded: TokenizersBackend) -> None:
    assert len(loaded) == SIZE
    assert sorted(loaded.get_vocab().values()) == list(range(SIZE))
    assert loaded.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
    assert loaded.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>", "<extra_id_99>"]) == [599, 598, 500]
    assert set(SENTINELS) < set(loaded.all_special_tokens)


def test_ends_each_text_and_reads_sentinels(loaded: TokenizersBackend) -> None:
    ids = loaded("A film <extra_id_0> plot").input_ids
    assert ids[-1] == 1
    assert ids.count(599) == 1
    assert loaded("one", "two").input_ids.count(1) == 2


def test_loaded_back_it_is_the_same(tokenizer: TokenizersBackend, loaded: TokenizersBackend, texts: list[str]) -> None:
    assert tokenizer(texts).input_ids == loaded(texts).input_ids
    assert tokenizer.get_vocab() == loaded.get_vocab()


def test_the_way_there_and_back(loaded: TokenizersBackend, texts: list[str]) -> None:
    for text in texts:
        assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == " ".join(text.split())


def test_the_same_texts_give_the_same_tokenizer(tokenizer: TokenizersBackend, texts: list[str]) -> None:
    again = train_tokenizer(iter(texts), SIZE)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_ids_are_sentencepieces_own(tokenizer: TokenizersBackend, texts: list[str]) -> None:
    model = _trained(iter(texts), SIZE - len(SENTINELS)).SerializeToString()
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    odd = ["  a\t b\n\nc ", "ﬁlm № ½ Ａ", "x\u200by\u00adz", "日本 é e\u0301 \u0001 q", "", " ", "▁a"]
    for text in texts + odd:
        assert tokenizer(text, add_special_tokens=False).input_ids == own.encode(text)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (358, "a vocabulary of 358 is too small; give 359 or more"),
        (100_000, "does not fill a vocabulary of 100,000 ("),
    ],
)
def test_sizes_that_do_not_fit(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        train_tokenizer(iter(texts), size)
    assert message in str(error.value)


def test_the_message_names_a_size_that_does(texts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        train_tokenizer(iter(texts), 100_000)
    most = int(str(error.value).split("(")[1].split(" or less")[0].replace(",", ""))
    assert len(train_tokenizer(iter(texts), most)) == most


def test_of_too_little_text_no_size_is_named(texts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        train_tokenizer(iter(["a few words"]), 400)
    assert str(error.value) == "the text does not fill a vocabulary of 400; give more text"


def test_no_text() -> None:
    with pytest.raises(UserError, match="does not fill"):
        train_tokenizer(iter([]), SIZE)

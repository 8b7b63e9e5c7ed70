"""What stands between a text and its answer, in the pieces of a tokenizer whose words begin with their space."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.tasks import Example, render

TEXT = [
    "Sentiment: positive",
    "Sentiment: negative",
    "a fine film, and a long one",
    "Is it so: yes or no",
    "user",
    "{x}",
]
CHAT = "{% for m in messages %}<|a|>{{ m.role }}\n{{ m.content }}<|b|>\n{% endfor %}{{ '<|a|>assistant\n' }}"


def tokenizer(begin: bool = False) -> PreTrainedTokenizerFast:
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bare.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<s>", "</s>", "<pad>", "<|a|>", "<|b|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(TEXT * 9, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    if begin:
        from tokenizers.processors import TemplateProcessing

        bare.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|a|>", "<|b|>"],
    )


def backbone(begin: bool = False, chat: str | None = None) -> CausalBackbone:
    pieces = tokenizer(begin)
    pieces.chat_template = chat
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return CausalBackbone("tiny", AutoModelForCausalLM.from_config(config), pieces)


def read_and_said(model: Backbone, text: str, cue: str, word: str) -> list[int]:
    """All pieces from the beginning of the text to the end of the answer."""
    (read,), _ = render(model.tokenize, [Example.of(text)], 100, model.question("{text}", cue))
    words = LabelWords.of(model, (word, "negative"), cue)
    return [*read, *words.lead_in, *words.pieces[0]]


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("cue", ["Sentiment:", "Is it so:", "{x} is {y}:", ":"])
def test_text_cue_and_word_are_the_pieces_of_one_text(begin: bool, cue: str) -> None:
    model = backbone(begin)
    pieces = read_and_said(model, "a fine film", cue, "positive")
    assert pieces == model.tokenizer(f"a fine film\n{cue} positive")["input_ids"]
    assert len(model.lead_in(cue)) == (1 if cue != ":" else 2)


@pytest.mark.parametrize("begin", [False, True])
def test_a_chat_template_stands_around_the_text(begin: bool) -> None:
    model = backbone(begin, ("<s>" if begin else "") + CHAT)
    pieces = read_and_said(model, "a fine film", "chat", "positive")
    message = [{"role": "user", "content": "a fine film"}]
    whole = model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert pieces == model.tokenizer(whole + "positive", add_special_tokens=False)["input_ids"]


def test_without_a_chat_template() -> None:
    with pytest.raises(UserError, match="template chat: the tokenizer of tiny has no chat template"):
        backbone().question("{text}", "chat")


def test_too_long_a_text_keeps_its_cue() -> None:
    model = backbone()
    (ids,), (cut,) = render(
        model.tokenize, [Example.of("a fine film " * 50)], 30, model.question("{text}", "Is it so:")
    )
    assert cut
    assert len(ids) <= 30
    assert model.tokenizer.decode(ids).endswith("\nIs it so")


def test_words_are_ended_only_where_one_begins_another() -> None:
    model = backbone()
    plain, nested = (LabelWords.of(model, words, "Answer:") for words in (("yes", "no"), ("no", "no film")))
    assert not plain.ended
    assert model.end not in {piece for word in plain.pieces for piece in word}
    assert nested.ended
    assert [word[-1] for word in nested.pieces] == [model.end] * 2


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("no", "no"),
        ("no, it is not", "no"),
        ("no way out", "no way"),
        ("nothing", "nothing"),
        ("yes\nno", "yes"),
        ("", ""),
    ],
)
def test_the_word_that_a_text_begins_with(written: str, word: str) -> None:
    words = LabelWords(("no", "no way", "yes"), ((1,), (2,), (3,)), (0,), ended=False)
    assert words.word_of(written) == word
    assert LabelWords(("no", "yes"), ((1,), (3,)), (0,)).word_of("no, it is not") == "no, it is not"

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase, T5Config

from preface.backbones.load import EMBEDDED
from preface.backbones.pieces import CausalPieces, T5Pieces
from preface.errors import UserError
from preface.pretraining.mixture import (
    IGNORED,
    Batch,
    Chunks,
    Instructions,
    LanguageModel,
    Mixture,
    PrefixLM,
    SpanCorruption,
    sentinels,
)
from preface.tasks import Example

TEXT = np.arange(3, 3003, dtype=np.uint16)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED / "nano")


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)


def test_an_epoch_has_every_chunk_once_and_the_next_another_order() -> None:
    chunks = Chunks(TEXT, 10, seed=0)
    epochs = [chunks.rows(epoch * chunks.count, chunks.count) for epoch in range(2)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == epoch.size
        assert (np.diff(epoch, axis=1) == 1).all()  # each is a run of the text
    assert not np.array_equal(*epochs)


def test_rows_across_the_end_of_an_epoch_are_those_of_both() -> None:
    chunks = Chunks(TEXT, 10, seed=0)
    both = chunks.rows(chunks.count - 2, 4)
    assert np.array_equal(both[:2], chunks.rows(chunks.count - 2, 2))
    assert np.array_equal(both[2:], chunks.rows(chunks.count, 2))


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UserError, match="too few for chunks of 100"):
        Chunks(TEXT[:150], 100, seed=0)


def test_a_step_is_the_same_whenever_it_is_made(tokenizer: PreTrainedTokenizerBase) -> None:
    for kind in (SpanCorruption, PrefixLM):
        straight = kind(TEXT, tokenizer, 32, seed=1)
        batches = [straight.batch(step, 4) for step in range(5)]
        assert same(batches[3], kind(TEXT, tokenizer, 32, seed=1).batch(3, 4))
        assert not same(batches[3], batches[4])
        assert not same(batches[3], kind(TEXT, tokenizer, 32, seed=2).batch(3, 4))


def test_masks_are_new_in_every_epoch(tokenizer: PreTrainedTokenizerBase) -> None:
    corrupting = SpanCorruption(TEXT, tokenizer, 32, seed=1)
    marks = set(sentinels(tokenizer).tolist())

    def places(step: int) -> list[list[bool]]:
        return [[token in marks for token in row] for row in corrupting.batch(step, 4).inputs.tolist()]

    assert places(0) != places(corrupting.chunks.count // 4 + 1)


def test_span_corruption_needs_enough_sentinels(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="give a shorter --input-length"):
        SpanCorruption(TEXT, tokenizer, 2500, seed=0)


def test_sentinels_are_those_of_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    assert sentinels(tokenizer).tolist() == [
        tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(100)
    ]


def t5(tokenizer: PreTrainedTokenizerBase) -> T5Pieces:
    return T5Pieces("nano", T5Config(decoder_start_token_id=0), tokenizer)


def labelled(rows: int, name: str) -> list[list[Example]]:
    return [
        [Example.of(f"{wording} {name} {'word ' * (row % 7)}{row}", name) for row in range(rows)]
        for wording in ("judge:", "what is it?")
    ]


def test_instructions_are_mixed_by_size_in_all_wordings(tokenizer: PreTrainedTokenizerBase) -> None:
    tasks = {"large": labelled(300, "large"), "small": labelled(100, "small")}
    objective = Instructions(tasks, t5(tokenizer), 32, seed=0)
    answers: Counter[str] = Counter()
    texts = []
    for step in range(40):
        batch = objective.batch(step, 20)
        assert batch.mask is not None
        for ids, mask, labels in zip(batch.inputs, batch.mask, batch.labels, strict=True):
            text = tokenizer.decode(ids[mask == 1], skip_special_tokens=True)
            answer = tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True)
            assert answer in text
            assert labels[labels != IGNORED][-1] == ids[mask == 1][-1] == tokenizer.eos_token_id
            answers[answer] += 1
            texts.append(text)
    assert answers["large"] / answers.total() == pytest.approx(0.75, abs=0.05)
    assert {text.split()[0] for text in texts} == {"judge:", "what"}


def test_long_instructions_are_cut_to_the_input_length(tokenizer: PreTrainedTokenizerBase) -> None:
    tasks = {"long": [[Example.of("word " * 200, "yes")]]}
    assert Instructions(tasks, t5(tokenizer), 32, seed=0).batch(0, 2).inputs.shape == (2, 32)


def test_rows_of_a_step_are_of_like_length(tokenizer: PreTrainedTokenizerBase) -> None:
    tasks = {"mixed": [[Example.of("word " * size, "yes") for size in range(1, 60)]]}
    objective = Instructions(tasks, t5(tokenizer), 64, seed=0)
    batches = [objective.batch(step, 16) for step in range(16)]
    real = sum(int(batch.mask.sum()) for batch in batches if batch.mask is not None)
    assert real / sum(batch.inputs.numel() for batch in batches) > 0.8


def test_objectives_come_by_weight_and_the_thread_changes_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    def mixture() -> Mixture:
        kinds = {"span-corruption": SpanCorruption, "prefix-lm": PrefixLM}
        objectives = {name: kind(TEXT, tokenizer, 32, 0) for name, kind in kinds.items()}
        return Mixture(objectives, {"span-corruption": 3, "prefix-lm": 1}, seed=0)  # type: ignore[arg-type]

    straight = mixture()
    counts = Counter(straight.objective_at(step) for step in range(2000))
    assert counts["span-corruption"] / 2000 == pytest.approx(0.75, abs=0.03)
    batches = [straight.batch(step, 4) for step in range(6)]
    jumped = mixture()
    assert same(jumped.batch(4, 4), batches[4])
    assert same(jumped.batch(5, 4), batches[5])
    straight.close()
    jumped.close()


def test_tokens_count_what_is_read_and_continued() -> None:
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])
    assert Batch("span-corruption", ids, None, ids[:, :4]).tokens == 16
    assert Batch("prefix-lm", ids, None, ids[:, :4]).tokens == 24
    assert Batch("instructions", ids, mask, ids[:, :4]).tokens == 11


def test_a_decoder_only_model_goes_on_where_its_input_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = CausalPieces("tiny", LlamaConfig(eos_token_id=1, bos_token_id=1), tokenizer)
    tasks = {"large": labelled(9, "large")}
    batch = Instructions(tasks, pieces, 32, seed=0, cues={"large": "How big:"}).batch(0, 6)
    assert batch.mask is not None
    for ids, mask, labels in zip(batch.inputs, batch.mask, batch.labels, strict=True):
        assert mask.tolist() == sorted(mask.tolist())  # padded on the left
        read, said = ids[mask == 1].tolist(), labels[labels != IGNORED].tolist()
        assert said[-1] == 1
        text = tokenizer.decode(read, skip_special_tokens=True)
        assert text.endswith("How big:")
        assert read[-1:] == list(pieces.lead_in("How big:"))
        assert [said[:-1]] == pieces.answer_pieces(["large"], "How big:")


def test_a_decoder_only_model_learns_every_piece_of_a_text() -> None:
    batch = LanguageModel(TEXT, 32, 0).batch(3, 4)
    chunks = LanguageModel(TEXT, 32, 0).chunks.rows(12, 4)
    assert torch.equal(torch.cat([batch.inputs, batch.labels], dim=1), torch.from_numpy(chunks))
    assert batch.inputs.shape == (4, 1)

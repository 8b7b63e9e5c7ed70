"""What prompts add to the states of their tokens, held against Transformers' own models with what is added put in by
hand after each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from preface.backbones import writing
from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.families import FAMILIES
from preface.backbones.load import load_backbone
from preface.prompts import Prompts, stack
from tests.backbones import test_t5
from tests.backbones.test_causal import CUE, TEXTS, logits, pair, random_prompts
from tests.conftest import close

N = 3


@pytest.fixture(scope="module", params=list(FAMILIES))
def models(request: pytest.FixtureRequest) -> tuple[CausalBackbone, Any]:
    return pair(request.param)


def soft_words(backbone: Backbone, carrier: str, size: int = 1, length: int = N, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, length, backbone.width, generator=generator)
    added = torch.randn(size, backbone.layers - 1, length, backbone.hidden_width, generator=generator)
    return Prompts({carrier: embeddings, f"{carrier}.added": added})


@contextmanager
def adding(layers: Sequence[nn.Module], added: Tensor, start: int = 0) -> Iterator[None]:
    """Each layer but the last gives `added` `[B or 1, L - 1, n, d]` more, from place `start` on."""

    def hook(layer: nn.Module, args: Any, output: Any) -> Any:
        states = (output if isinstance(output, Tensor) else output[0]).clone()
        states[:, start : start + added.shape[2]] += added[:, list(layers).index(layer)]
        return states if isinstance(output, Tensor) else (states, *output[1:])

    handles = [layer.register_forward_hook(hook) for layer in layers[:-1]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_of(plain: Any) -> Sequence[nn.Module]:
    decoder = plain.get_decoder()
    return decoder.h if hasattr(decoder, "h") else decoder.layers


@torch.no_grad()
def test_t5_reads_as_with_states_changed_by_hand(checkpoints: dict[str, Path], family: str) -> None:
    ids, mask, labels = test_t5.batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    model: Any = test_t5.reference(checkpoints[family])
    prompts, rows = soft_words(backbone, "embeddings", size=3), torch.tensor([2, 0, 1, 2])
    embedded = torch.cat([prompts.tensors["embeddings"][rows], model.shared(ids)], dim=1)
    longer = torch.cat([mask.new_ones(len(mask), N), mask], dim=1)
    with adding(model.encoder.block, prompts.tensors["embeddings.added"][rows]):
        expected = model(inputs_embeds=embedded, attention_mask=longer, labels=labels).logits
    actual = test_t5.forward(backbone, ids, mask, labels, prompts, rows)
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)
    without = Prompts({"embeddings": prompts.tensors["embeddings"]})
    assert not torch.allclose(test_t5.forward(backbone, ids, mask, labels, without, rows), expected, atol=0.1)


@torch.no_grad()
def test_decoder_only_models_too(models: tuple[CausalBackbone, Any]) -> None:
    """Before the text or after it."""
    backbone, plain = models
    embed = plain.get_input_embeddings()
    for carrier in ("embeddings", "after"):
        prompts = soft_words(backbone, carrier)
        found = logits(backbone, TEXTS, prompts)
        own = prompts.tensors[carrier]
        for row, text in zip(found, TEXTS, strict=True):
            before, after = ([], [*text, *CUE]) if carrier == "embeddings" else (text, CUE)
            sides = [embed(torch.tensor([ids], dtype=torch.long)) for ids in (before, after)]
            with adding(layers_of(plain), prompts.tensors[f"{carrier}.added"], len(before)):
                said = plain(inputs_embeds=torch.cat([sides[0], own, sides[1]], dim=1)).logits[0, -len(CUE) :]
            torch.testing.assert_close(row, said, atol=3e-4, rtol=1e-4)


@torch.no_grad()
def test_equals_the_cache_that_the_prompt_alone_makes(models: tuple[CausalBackbone, Any]) -> None:
    """No text changes what stands before it."""
    backbone, plain = models
    prompts = soft_words(backbone, "embeddings")
    for row, text in zip(logits(backbone, TEXTS, prompts), TEXTS, strict=True):
        cache = DynamicCache()
        with adding(layers_of(plain), prompts.tensors["embeddings.added"]):
            plain(inputs_embeds=prompts.tensors["embeddings"], past_key_values=cache)
        ids = torch.tensor([[*text, *CUE]])
        positions = torch.arange(N, N + ids.shape[1])[None]
        said = plain(ids, past_key_values=cache, position_ids=positions).logits[0, -len(CUE) :]
        torch.testing.assert_close(row, said, atol=3e-4, rtol=1e-4)


def test_a_mixed_batch_equals_its_rows_one_by_one(models: tuple[CausalBackbone, Any]) -> None:
    backbone, _ = models
    several = [
        random_prompts(backbone, 1, 5, "embeddings", "after", seed=1),  # nothing added, and longer
        soft_words(backbone, "embeddings", seed=2),
        soft_words(backbone, "after", length=2, seed=3),
        soft_words(backbone, "embeddings", length=4, seed=4),
        random_prompts(backbone, 1, 2, "answer", seed=5),
        Prompts.bare(),
    ]
    texts = [TEXTS[place % len(TEXTS)] for place in range(len(several))]
    together = logits(backbone, texts, stack(several), list(range(len(several))))
    for row, text, prompts in zip(together, texts, several, strict=True):
        torch.testing.assert_close(row, logits(backbone, [text], prompts)[0], atol=3e-4, rtol=1e-4)


@pytest.mark.precision
@torch.no_grad()
def test_a_mixed_batch_of_t5_equals_its_rows_one_by_one(tiny: Backbone) -> None:
    ids, mask, labels = test_t5.batch()
    parts = [
        Prompts({"embeddings": torch.randn(1, 5, tiny.width)}),
        soft_words(tiny, "embeddings"),
        soft_words(tiny, "embeddings", length=2, seed=1),
        Prompts.bare(),
    ]
    together = test_t5.forward(tiny, ids, mask, labels, stack(parts), torch.arange(4))
    for row, part in enumerate(parts):
        alone = test_t5.forward(tiny, ids[row : row + 1], mask[row : row + 1], labels[row : row + 1], part)
        close(tiny, together[row], alone[0])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_generation_says_what_the_forward_pass_does(kind: str, beams: int) -> None:
    backbone, _ = pair(kind)
    several = [soft_words(backbone, "after", seed=1), soft_words(backbone, "embeddings", length=2), Prompts.bare()]
    how = {"max_new_tokens": 7, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    rows = torch.arange(3)
    context = backbone.read(*backbone.pad(TEXTS), stack(several), rows)
    together = backbone.generate(context, stack(several), rows, lead_in=CUE, **how)
    for row, text, prompts in zip(together, TEXTS, several, strict=True):
        (alone,) = backbone.generate(backbone.read(*backbone.pad([text]), prompts), prompts, lead_in=CUE, **how)
        assert row.tolist() == alone.tolist()
    if beams == 1:
        for row, text, prompts in zip(together.tolist(), TEXTS, several, strict=True):
            context = backbone.read(*backbone.pad([text]), prompts)
            said = backbone.logits(context, torch.tensor([[*CUE, *row]]), prompts)[0].argmax(-1)
            assert said[len(CUE) - 1 : -1].tolist() == row


@pytest.mark.parametrize("carrier", ["embeddings", "after"])
def test_checkpointing_gives_the_same_gradients(carrier: str, tiny_float32: Backbone) -> None:
    backbones: list[Backbone] = [pair("llama")[0]] + [tiny_float32] * (carrier == "embeddings")
    for backbone in backbones:
        tensors = {name: item.requires_grad_() for name, item in soft_words(backbone, carrier).tensors.items()}
        answers, labels = torch.tensor([CUE] * len(TEXTS)), torch.tensor([[-100, 60]] * len(TEXTS))
        found = []
        for checkpointing in (False, True):
            with backbone.training(gradient_checkpointing=checkpointing):
                context = backbone.read(*backbone.pad(TEXTS), Prompts(tensors))
                losses = backbone.losses(context, answers, labels, Prompts(tensors))
                found.append(torch.autograd.grad(losses.sum(), list(tensors.values())))
        for plain, checkpointed in zip(*found, strict=True):
            assert (plain != 0).all()
            torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_compiled_equals_eager(tiny: Backbone) -> None:
    ids, mask, labels = test_t5.batch()
    arguments = (tiny, ids, mask, labels, soft_words(tiny, "embeddings", size=2), torch.tensor([1, 0, 0, 1]))
    compiled = torch.compile(test_t5.forward, backend="eager")
    torch.testing.assert_close(compiled(*arguments), test_t5.forward(*arguments))


def test_a_backbone_made_twice_adds_once() -> None:
    backbone, _ = pair("llama")
    prompts = soft_words(backbone, "embeddings")
    once = logits(backbone, TEXTS, prompts)
    again = CausalBackbone("again", backbone.model, backbone.tokenizer)
    torch.testing.assert_close(logits(again, TEXTS, prompts), once)


def test_states_wider_than_embeddings() -> None:
    """As OPT-350m's are, which projects its embeddings."""
    backbone, plain = pair("opt", word_embed_proj_dim=16)
    assert (backbone.width, backbone.hidden_width) == (16, 32)
    prompts = soft_words(backbone, "embeddings")
    words = plain.get_input_embeddings()(torch.tensor([[*TEXTS[0], *CUE]]))
    with torch.no_grad(), adding(layers_of(plain), prompts.tensors["embeddings.added"]):
        said = plain(inputs_embeds=torch.cat([prompts.tensors["embeddings"], words], dim=1)).logits[0, -len(CUE) :]
    torch.testing.assert_close(logits(backbone, TEXTS[:1], prompts)[0], said, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("part", [1, 2, 4, 100])
@torch.no_grad()
def test_read_in_parts(part: int) -> None:
    backbone, _ = pair("llama")
    prompts = soft_words(backbone, "embeddings")
    whole = backbone.read(*backbone.pad(TEXTS[:1]), prompts)
    *_, found = backbone.read_in_parts(TEXTS[0], part, prompts)
    assert found is not None
    torch.testing.assert_close(found.states, whole.states, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_answers_that_join_others_write_what_each_writes_alone() -> None:
    backbone, _ = pair("gpt2")
    several = [soft_words(backbone, "after", seed=1), soft_words(backbone, "embeddings", length=2), Prompts.bare()]
    several.append(soft_words(backbone, "after", length=5, seed=2))
    texts = [*TEXTS, TEXTS[0]]
    going, written = None, []
    for row, (text, own) in enumerate(zip(texts, several, strict=True)):
        new, scores = writing.begin(backbone, backbone.read(*backbone.pad([text]), own), CUE, own)
        going = new if going is None else writing.joined([going, new])
        written.append(scores.argmax(-1).tolist())
        said = torch.tensor([pieces[-1] for pieces in written])
        together = stack(several[: row + 1])
        going, scores = writing.go_on(backbone, going, said, together, torch.arange(row + 1))
        for pieces, piece in zip(written, scores.argmax(-1).tolist(), strict=True):
            pieces.append(piece)
    assert list(map(len, written)) == [5, 4, 3, 2]
    for text, own, pieces in zip(texts, several, written, strict=True):
        context = backbone.read(*backbone.pad([text]), own)
        said = backbone.logits(context, torch.tensor([[*CUE, *pieces]]), own)[0].argmax(-1)
        assert said[len(CUE) - 1 : -1].tolist() == pieces

"""The backbone against Transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from preface.backbones.base import Backbone, weights_hash
from preface.backbones.load import load_backbone
from preface.backbones.t5 import T5Backbone
from preface.prompts import Prompts, stack
from tests.conftest import close

P, B, N, T, S = 3, 4, 5, 7, 3


def reference(folder: Path) -> torch.nn.Module:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(200, 9000, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([[T], [T - 2], [T - 1], [3]])).long()
    return ids * mask, mask, torch.randint(200, 9000, (B, S), generator=generator)


def random_prompts(
    backbone: Backbone, seed: int = 1, length: int = N, size: int = P, embeddings: bool = True
) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, site in backbone.sites.items():
        full = (size, site.layers, site.heads, length, site.width)
        tensors[f"{name}.keys"] = torch.randn(full, generator=generator)
        tensors[f"{name}.values"] = torch.randn(full, generator=generator)
    if embeddings:
        tensors["embeddings"] = torch.randn(size, length, backbone.width, generator=generator)
    return Prompts(tensors)


def only(prompts: Prompts, carrier: str) -> Prompts:
    return Prompts({name: tensor for name, tensor in prompts.tensors.items() if name.startswith(carrier)})


def prefix_of(site: str, keys: list[Tensor], values: list[Tensor]) -> Prompts:
    """The first N keys and values `[B, H, T, d_kv]` of each layer as B prompts."""
    parts = {f"{site}.keys": keys, f"{site}.values": values}
    return Prompts({name: torch.stack([layer[:, :, :N] for layer in part], dim=1) for name, part in parts.items()})


def forward(
    backbone: Backbone,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    prompts: Prompts | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """The logits `[B, S, vocabulary]` that predict `labels` `[B, S]`."""
    start = torch.tensor(backbone.lead_in("")).expand(len(labels), -1)
    context = backbone.read(ids, mask, prompts, rows)
    return backbone.logits(context, torch.cat([start, labels[:, :-1]], dim=1), prompts, rows)


def recorded(model: torch.nn.Module, site: str, run) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values `[B, H, T, d_kv]` of each layer of a site while `run()` runs."""
    stack = model.encoder if site == "encoder" else model.decoder
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    hooks = []
    for block in stack.block:
        attention = block.layer[1].EncDecAttention if site == "cross" else block.layer[0].SelfAttention
        for place, projection in enumerate((attention.k, attention.v)):
            hooks.append(
                projection.register_forward_hook(
                    lambda module, args, output, place=place, attention=attention: found[place].append(
                        output.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)
                    )
                )
            )
    run()
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def test_the_bare_model_is_transformers_own(checkpoints: dict[str, Path], family: str) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    expected = reference(checkpoints[family])(input_ids=ids, attention_mask=mask, labels=labels).logits
    torch.testing.assert_close(forward(backbone, ids, mask, labels), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(forward(backbone, ids, mask, labels, Prompts.bare()), expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_embeddings_equal_inputs_embeds(checkpoints: dict[str, Path], family: str) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    model = reference(checkpoints[family])
    prompts, rows = torch.randn(P, N, 24), torch.tensor([2, 0, 1, 2])
    embedded = torch.cat([prompts[rows], model.shared(ids)], dim=1)
    longer = torch.cat([torch.ones(B, N, dtype=torch.long), mask], dim=1)
    expected = model(inputs_embeds=embedded, attention_mask=longer, labels=labels).logits
    actual = forward(backbone, ids, mask, labels, Prompts({"embeddings": prompts}), rows)
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_decoder_prefix_equals_the_cache(checkpoints: dict[str, Path], family: str) -> None:
    """The relative position of a preceding token included: the cache's tokens stand before the first."""
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    model = reference(checkpoints[family])
    rows = torch.tensor([1, 1, 0, 2])
    decoder = only(random_prompts(backbone), "decoder")
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    keys, values = decoder.tensors["decoder.keys"][rows], decoder.tensors["decoder.values"][rows]
    for layer in range(keys.shape[1]):
        cache.self_attention_cache.update(keys[:, layer], values[:, layer], layer)
    expected = model(
        input_ids=ids,
        attention_mask=mask,
        decoder_input_ids=model._shift_right(labels),
        decoder_attention_mask=torch.ones(B, N + S, dtype=torch.long),
        past_key_values=cache,
    ).logits
    actual = forward(backbone, ids, mask, labels, decoder, rows)
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_encoder_prefix_equals_real_preceding_tokens(checkpoints: dict[str, Path], family: str) -> None:
    """Keys and values that tokens before the text had, at each layer, do for the text what the tokens did."""
    backbone, model = load_backbone(checkpoints[family], dtype="float32"), reference(checkpoints[family])
    ids = torch.randint(200, 9000, (B, N + T), generator=torch.Generator().manual_seed(3))
    outputs = []
    keys, values = recorded(model, "encoder", lambda: outputs.append(model.encoder(input_ids=ids).last_hidden_state))
    prefix = prefix_of("encoder", keys, values)
    actual = backbone.read(ids[:, N:], torch.ones(B, T, dtype=torch.long), prefix).states
    torch.testing.assert_close(actual, outputs[0][:, N:], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_cross_prefix_equals_more_encoder_states(checkpoints: dict[str, Path], family: str) -> None:
    backbone, model = load_backbone(checkpoints[family], dtype="float32"), reference(checkpoints[family])
    ids, mask, labels = batch()
    states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    before = torch.randn(B, N, 24)
    everything = torch.cat([before, states], dim=1)
    longer = torch.cat([torch.ones(B, N, dtype=torch.long), mask], dim=1)
    expected = []
    keys, values = recorded(
        model,
        "cross",
        lambda: expected.append(model(encoder_outputs=(everything,), attention_mask=longer, labels=labels).logits),
    )
    prefix = prefix_of("cross", keys, values)
    actual = forward(backbone, ids, mask, labels, prefix)
    torch.testing.assert_close(actual, expected[0], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_positions_none_is_a_bias_of_zero(checkpoint_folder: Path) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoint_folder, dtype="float32")
    decoder = only(random_prompts(backbone), "decoder")
    rows = torch.tensor([0, 1, 2, 0])
    unplaced = Prompts(decoder.tensors | {"decoder.relative": torch.tensor([False, True, False])})
    mixed = forward(backbone, ids, mask, labels, unplaced, rows)
    placed = forward(backbone, ids, mask, labels, decoder, rows)
    torch.testing.assert_close(mixed[1], placed[1])
    assert not torch.allclose(mixed[0], placed[0], atol=1e-2)
    for block in backbone.model.decoder.block:
        block.layer[0].SelfAttention.preceding_bias = torch.zeros(3, 17)
    unbiased = forward(backbone, ids, mask, labels, decoder, rows)
    torch.testing.assert_close(mixed[[0, 2, 3]], unbiased[[0, 2, 3]])


@pytest.mark.precision
@torch.no_grad()
def test_mixed_batch_equals_its_rows_one_by_one(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    together = forward(tiny, ids, mask, labels, prompts, rows)
    for row in range(B):
        real = int(mask[row].sum())
        alone = forward(
            tiny,
            ids[row : row + 1, :real],
            mask[row : row + 1, :real],
            labels[row : row + 1],
            prompts,
            rows[row : row + 1],
        )
        close(tiny, together[row], alone[0])


@pytest.mark.precision
@torch.no_grad()
def test_stacked_prompts_of_all_kinds_and_lengths_equal_each_alone(tiny: Backbone) -> None:
    """Padding a prompt on the left changes nothing, nor does a neighbour of another method."""
    ids, mask, labels = batch()
    full = random_prompts(tiny, seed=1, length=5, size=1)
    parts = [
        full,
        Prompts({"embeddings": torch.randn(1, 2, 24)}),
        only(random_prompts(tiny, seed=2, length=3, size=1), "decoder"),
        random_prompts(tiny, seed=3, length=8, size=1, embeddings=False),
    ]
    together = forward(tiny, ids, mask, labels, stack(parts), torch.arange(B))
    for row, part in enumerate(parts):
        alone = forward(tiny, ids[row : row + 1], mask[row : row + 1], labels[row : row + 1], part)
        close(tiny, together[row], alone[0])


@pytest.mark.precision
@torch.no_grad()
def test_more_padding_changes_nothing(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    wider, wider_mask = torch.nn.functional.pad(ids, (0, 9)), torch.nn.functional.pad(mask, (0, 9))
    close(
        tiny,
        forward(tiny, wider, wider_mask, labels, prompts, rows),
        forward(tiny, ids, mask, labels, prompts, rows),
    )


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
@torch.no_grad()
def test_generation_with_rows_of_different_prompts(tiny: Backbone, options: dict[str, int]) -> None:
    ids, mask, _ = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    # stopping early would make rows of different lengths, which only differ in padding
    options = {**options, "max_new_tokens": 6, "min_new_tokens": 6}
    together = tiny.generate(tiny.read(ids, mask, prompts, rows), prompts, rows, lead_in=tiny.lead_in(""), **options)
    plain = tiny.generate(tiny.read(ids, mask), lead_in=tiny.lead_in(""), **options)
    assert not torch.equal(together, plain)
    for row in range(B):
        real = int(mask[row].sum())
        own = rows[row : row + 1]
        context = tiny.read(ids[row : row + 1, :real], mask[row : row + 1, :real], prompts, own)
        alone = tiny.generate(context, prompts, own, lead_in=tiny.lead_in(""), **options)
        assert torch.equal(together[row], alone[0])


@torch.no_grad()
def test_greedy_generation_equals_the_argmax_of_the_forward_pass(tiny: Backbone) -> None:
    ids, mask, _ = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    context = tiny.read(ids, mask, prompts, rows)
    written = tiny.generate(context, prompts, rows, lead_in=tiny.lead_in(""), max_new_tokens=6, min_new_tokens=6)
    tokens = torch.zeros(B, 1, dtype=torch.long)
    for _ in range(6):
        logits = tiny.logits(context, tokens, prompts, rows)[:, -1]
        logits[:, 1] = -torch.inf  # min_new_tokens forbids </s>
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, tokens)


def gradients(backbone: Backbone, checkpointing: bool) -> list[Tensor]:
    ids, mask, labels = batch()
    prompts = random_prompts(backbone)
    leaves = list(prompts.tensors.values())
    for leaf in leaves:
        leaf.requires_grad_(True)
    with backbone.training(gradient_checkpointing=checkpointing):
        forward(backbone, ids, mask, labels, prompts, torch.tensor([2, 0, 1, 2])).logsumexp(-1).sum().backward()
    return [leaf.grad for leaf in leaves]


def test_gradient_checkpointing_gives_the_same_gradients(tiny: Backbone) -> None:
    for plain, checkpointed in zip(gradients(tiny, False), gradients(tiny, True), strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(checkpointed, plain, atol=1e-3, rtol=1e-3)


def test_gradient_checkpointing_recomputes(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    block = tiny.model.encoder.block[0].layer[0].SelfAttention.q
    hook = block.register_forward_hook(lambda *_: calls.append(1))
    gradients(tiny, False)
    once = len(calls)
    gradients(tiny, True)
    hook.remove()
    assert len(calls) - once == 2 * once


@torch.no_grad()
def test_compiled_equals_eager(tiny: Backbone) -> None:
    """The graph is captured whole; the compiler behind it is torch's affair, and slow."""
    ids, mask, labels = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    compiled = torch.compile(forward, backend="eager")
    torch.testing.assert_close(
        compiled(tiny, ids, mask, labels, prompts, rows), forward(tiny, ids, mask, labels, prompts, rows)
    )


@pytest.mark.precision
def test_dropout_is_off_unless_asked(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    still = forward(tiny, ids, mask, labels)
    with tiny.training():
        close(tiny, forward(tiny, ids, mask, labels), still, atol=1e-5, rtol=1.3e-6)
    with tiny.training(dropout=0.5):
        assert not torch.allclose(forward(tiny, ids, mask, labels), still)
    close(tiny, forward(tiny, ids, mask, labels), still, atol=1e-5, rtol=1.3e-6)


def test_embedded_backbone_is_frozen_and_named_by_its_weights(nano: Backbone) -> None:
    assert nano.parameters == 11_671_296
    assert not any(parameter.requires_grad for parameter in nano.model.parameters())
    assert nano.fingerprint == load_backbone("nano", dtype="bfloat16").fingerprint
    weight = nano.model.shared.weight
    weight.data[5, 5] += 1
    assert weights_hash(nano, torch.bfloat16) != nano.fingerprint
    weight.data[5, 5] -= 1


@torch.no_grad()
def test_bfloat16_weights_take_a_float32_prompt(checkpoint_folder: Path, tiny: Backbone) -> None:
    ids, mask, labels = batch()
    prompts, rows = random_prompts(tiny), torch.tensor([2, 0, 1, 2])
    halved = load_backbone(checkpoint_folder, dtype="bfloat16", device="cpu")
    actual = forward(halved, ids, mask, labels, prompts, rows)
    assert (halved.dtype, actual.dtype) == (torch.bfloat16, torch.float32)
    expected = forward(tiny, ids, mask, labels, prompts, rows)
    assert torch.corrcoef(torch.stack([actual.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_tokenize_cuts_and_ends_every_text(nano: Backbone) -> None:
    ids, cut = nano.tokenize(["short", "a much longer text than that", ""], max_tokens=4)
    assert [len(item) for item in ids] == [nano.tokenizer("short")["input_ids"].__len__(), 4, 1]
    assert all(item[-1] == 1 for item in ids)
    assert cut == [False, True, False]


def test_the_embedded_backbone_says_which_tasks_it_has_seen(nano: Backbone, tiny: Backbone) -> None:
    assert "imdb" in nano.seen_tasks
    assert "sst2" not in nano.seen_tasks
    assert tiny.seen_tasks == ()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_a_model_with_other_attention_reads_prompts_too(checkpoint_folder: Path, implementation: str) -> None:
    """Whoever makes a backbone of a model of their own need not know how attention is replaced."""
    ids, mask, labels = batch()
    model = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint_folder, dtype=torch.float32, attn_implementation=implementation
    )
    expected = load_backbone(checkpoint_folder, dtype="float32", device="cpu")
    backbone = T5Backbone("own", model, expected.tokenizer)
    prompts = only(random_prompts(backbone), "decoder")
    rows = torch.tensor([2, 0, 1, 2])
    given = forward(backbone, ids, mask, labels, prompts, rows)
    torch.testing.assert_close(given, forward(expected, ids, mask, labels, prompts, rows))
    assert not torch.allclose(given, forward(backbone, ids, mask, labels))

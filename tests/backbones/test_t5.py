"""The backbone against Transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from preface.backbones.t5 import Backbone, load_backbone, weights_hash
from preface.errors import UserError
from preface.prompts import SITES, Injection, KeyValues, join

P, B, N, T, S = 3, 4, 5, 7, 3


def reference(folder: Path) -> torch.nn.Module:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(200, 9000, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([[T], [T - 2], [T - 1], [3]])).long()
    return ids * mask, mask, torch.randint(200, 9000, (B, S), generator=generator)


def random_injection(
    backbone: Backbone, seed: int = 1, length: int = N, size: int = P, embeddings: bool = True
) -> Injection:
    generator = torch.Generator().manual_seed(seed)
    shape = backbone.shape
    sites = {}
    for site in SITES:
        full = (size, shape.layers(site), shape.heads, length, shape.d_kv)
        keys, values = torch.randn(full, generator=generator), torch.randn(full, generator=generator)
        sites[site] = KeyValues.from_stacked(keys, values)
    prompt = torch.randn(size, length, shape.d_model, generator=generator) if embeddings else None
    return Injection(embeddings=prompt, **sites)


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
def test_empty_injection_is_transformers_own(checkpoints: dict[str, Path], family: str) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    expected = reference(checkpoints[family])(input_ids=ids, attention_mask=mask, labels=labels).logits
    torch.testing.assert_close(backbone.forward(ids, mask, labels), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(backbone.forward(ids, mask, labels, Injection()), expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_embeddings_equal_inputs_embeds(checkpoints: dict[str, Path], family: str) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    model = reference(checkpoints[family])
    prompts, rows = torch.randn(P, N, 24), torch.tensor([2, 0, 1, 2])
    embedded = torch.cat([prompts[rows], model.shared(ids)], dim=1)
    longer = torch.cat([torch.ones(B, N, dtype=torch.long), mask], dim=1)
    expected = model(inputs_embeds=embedded, attention_mask=longer, labels=labels).logits
    actual = backbone.forward(ids, mask, labels, Injection(embeddings=prompts, rows=rows))
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_decoder_prefix_equals_the_cache(checkpoints: dict[str, Path], family: str) -> None:
    """The relative position of a preceding token included: the cache's tokens stand before the first."""
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoints[family], dtype="float32")
    model = reference(checkpoints[family])
    rows = torch.tensor([1, 1, 0, 2])
    decoder = random_injection(backbone).decoder
    assert decoder is not None
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for layer, (keys, values) in enumerate(zip(decoder.keys, decoder.values, strict=True)):
        cache.self_attention_cache.update(keys[rows], values[rows], layer)
    expected = model(
        input_ids=ids,
        attention_mask=mask,
        decoder_input_ids=model._shift_right(labels),
        decoder_attention_mask=torch.ones(B, N + S, dtype=torch.long),
        past_key_values=cache,
    ).logits
    actual = backbone.forward(ids, mask, labels, Injection(decoder=decoder, rows=rows))
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_encoder_prefix_equals_real_preceding_tokens(checkpoints: dict[str, Path], family: str) -> None:
    """Keys and values that tokens before the text had, at each layer, do for the text what the tokens did."""
    backbone, model = load_backbone(checkpoints[family], dtype="float32"), reference(checkpoints[family])
    ids = torch.randint(200, 9000, (B, N + T), generator=torch.Generator().manual_seed(3))
    outputs = []
    keys, values = recorded(model, "encoder", lambda: outputs.append(model.encoder(input_ids=ids).last_hidden_state))
    prefix = KeyValues(tuple(key[:, :, :N] for key in keys), tuple(value[:, :, :N] for value in values))
    actual = backbone.encode(ids[:, N:], torch.ones(B, T, dtype=torch.long), Injection(encoder=prefix)).hidden
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
    prefix = KeyValues(tuple(key[:, :, :N] for key in keys), tuple(value[:, :, :N] for value in values))
    actual = backbone.forward(ids, mask, labels, Injection(cross=prefix))
    torch.testing.assert_close(actual, expected[0], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_positions_none_is_a_bias_of_zero(checkpoint_folder: Path) -> None:
    ids, mask, labels = batch()
    backbone = load_backbone(checkpoint_folder, dtype="float32")
    decoder = random_injection(backbone).decoder
    assert decoder is not None
    rows = torch.tensor([0, 1, 2, 0])
    unplaced = KeyValues(decoder.keys, decoder.values, relative=torch.tensor([False, True, False]))
    mixed = backbone.forward(ids, mask, labels, Injection(decoder=unplaced, rows=rows))
    placed = backbone.forward(ids, mask, labels, Injection(decoder=decoder, rows=rows))
    torch.testing.assert_close(mixed[1], placed[1])
    assert not torch.allclose(mixed[0], placed[0], atol=1e-2)
    for block in backbone.model.decoder.block:
        block.layer[0].SelfAttention.preceding_bias = torch.zeros(3, 17)
    unbiased = backbone.forward(ids, mask, labels, Injection(decoder=decoder, rows=rows))
    torch.testing.assert_close(mixed[[0, 2, 3]], unbiased[[0, 2, 3]])


@torch.no_grad()
def test_mixed_batch_equals_its_rows_one_by_one(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    injection, rows = random_injection(tiny), torch.tensor([2, 0, 1, 2])
    together = tiny.forward(ids, mask, labels, injection.on(rows))
    for row in range(B):
        real = int(mask[row].sum())
        alone = tiny.forward(
            ids[row : row + 1, :real],
            mask[row : row + 1, :real],
            labels[row : row + 1],
            injection.on(rows[row : row + 1]),
        )
        torch.testing.assert_close(together[row], alone[0], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_joined_prompts_of_all_kinds_and_lengths_equal_each_alone(tiny: Backbone) -> None:
    """Padding a prompt on the left changes nothing, nor does a neighbour of another method."""
    ids, mask, labels = batch()
    full = random_injection(tiny, seed=1, length=5, size=1)
    parts = [
        full,
        Injection(embeddings=torch.randn(1, 2, 24)),
        Injection(decoder=random_injection(tiny, seed=2, length=3, size=1).decoder),
        random_injection(tiny, seed=3, length=8, size=1, embeddings=False),
    ]
    together = tiny.forward(ids, mask, labels, join(parts).on(torch.arange(B)))
    for row, part in enumerate(parts):
        alone = tiny.forward(ids[row : row + 1], mask[row : row + 1], labels[row : row + 1], part)
        torch.testing.assert_close(together[row], alone[0], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_more_padding_changes_nothing(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    injection = random_injection(tiny).on(torch.tensor([2, 0, 1, 2]))
    wider, wider_mask = torch.nn.functional.pad(ids, (0, 9)), torch.nn.functional.pad(mask, (0, 9))
    torch.testing.assert_close(
        tiny.forward(wider, wider_mask, labels, injection),
        tiny.forward(ids, mask, labels, injection),
        atol=1e-3,
        rtol=1e-4,
    )


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
@torch.no_grad()
def test_generation_with_rows_that_wear_different_prompts(tiny: Backbone, options: dict[str, int]) -> None:
    ids, mask, _ = batch()
    injection, rows = random_injection(tiny), torch.tensor([2, 0, 1, 2])
    # stopping early would make rows of different lengths, which only differ in padding
    options = {**options, "max_new_tokens": 6, "min_new_tokens": 6}
    together = tiny.generate(ids, mask, injection.on(rows), **options)
    plain = tiny.generate(ids, mask, None, **options)
    assert not torch.equal(together, plain)
    for row in range(B):
        real = int(mask[row].sum())
        alone = tiny.generate(
            ids[row : row + 1, :real],
            mask[row : row + 1, :real],
            injection.on(rows[row : row + 1]),
            **options,
        )
        assert torch.equal(together[row], alone[0])


@torch.no_grad()
def test_greedy_generation_equals_the_argmax_of_the_forward_pass(tiny: Backbone) -> None:
    ids, mask, _ = batch()
    injection = random_injection(tiny).on(torch.tensor([2, 0, 1, 2]))
    written = tiny.generate(ids, mask, injection, max_new_tokens=6, min_new_tokens=6)
    states = tiny.encode(ids, mask, injection)
    tokens = torch.zeros(B, 1, dtype=torch.long)
    for _ in range(6):
        logits = tiny.decode(states, tokens, injection)[:, -1]
        logits[:, 1] = -torch.inf  # min_new_tokens forbids </s>
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, tokens)


def gradients(backbone: Backbone, checkpointing: bool) -> list[Tensor]:
    ids, mask, labels = batch()
    injection = random_injection(backbone)
    leaves = [
        injection.embeddings,
        *(t for s in SITES for t in (*injection.site(s).keys, *injection.site(s).values)),
    ]
    for leaf in leaves:
        leaf.requires_grad_(True)
    with backbone.training(gradient_checkpointing=checkpointing):
        backbone.forward(ids, mask, labels, injection.on(torch.tensor([2, 0, 1, 2]))).logsumexp(-1).sum().backward()
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
    injection = random_injection(tiny).on(torch.tensor([2, 0, 1, 2]))
    compiled = torch.compile(tiny.forward, backend="eager")
    torch.testing.assert_close(compiled(ids, mask, labels, injection), tiny.forward(ids, mask, labels, injection))


def test_dropout_is_off_unless_asked(tiny: Backbone) -> None:
    ids, mask, labels = batch()
    still = tiny.forward(ids, mask, labels)
    with tiny.training():
        torch.testing.assert_close(tiny.forward(ids, mask, labels), still)
    with tiny.training(dropout=0.5):
        assert not torch.allclose(tiny.forward(ids, mask, labels), still)
    torch.testing.assert_close(tiny.forward(ids, mask, labels), still)


def test_embedded_backbone_is_frozen_and_named_by_its_weights(nano: Backbone) -> None:
    assert nano.parameters == 11_671_296
    assert not any(parameter.requires_grad for parameter in nano.model.parameters())
    assert nano.fingerprint == load_backbone("nano", dtype="bfloat16").fingerprint
    weight = nano.model.shared.weight
    weight.data[5, 5] += 1
    assert weights_hash(nano.model, torch.bfloat16) != nano.fingerprint
    weight.data[5, 5] -= 1


@torch.no_grad()
def test_bfloat16_weights_take_a_float32_prompt(checkpoint_folder: Path, tiny: Backbone) -> None:
    ids, mask, labels = batch()
    injection = random_injection(tiny).on(torch.tensor([2, 0, 1, 2]))
    halved = load_backbone(checkpoint_folder, dtype="bfloat16", device="cpu")
    actual = halved.forward(ids, mask, labels, injection)
    assert actual.dtype == torch.bfloat16
    expected = tiny.forward(ids, mask, labels, injection)
    assert torch.corrcoef(torch.stack([actual.float().flatten(), expected.flatten()]))[0, 1] > 0.95


def test_tokenize_cuts_and_ends_every_text(nano: Backbone) -> None:
    ids, cut = nano.tokenize(["short", "a much longer text than that", ""], max_tokens=4)
    assert [len(item) for item in ids] == [nano.tokenizer("short")["input_ids"].__len__(), 4, 1]
    assert all(item[-1] == 1 for item in ids)
    assert cut == [False, True, False]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("/nowhere/at/all", {}, "cannot be loaded"),
        ("nano", {"dtype": "float16"}, "overflows"),
        ("nano", {"device": "quantum"}, "not available"),
    ],
)
def test_load_backbone_says_what_would_do(name: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_backbone(name, **options)


def test_other_families_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="a bert model"):
        load_backbone(tmp_path)


def test_the_embedded_backbone_says_which_tasks_it_has_seen(nano: Backbone, tiny: Backbone) -> None:
    assert "imdb" in nano.seen_tasks
    assert "sst2" not in nano.seen_tasks
    assert tiny.seen_tasks == ()

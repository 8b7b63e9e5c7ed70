"""Training step by step beside PEFT: the same model, initial prompt, batches and optimizer give the same losses."""

from __future__ import annotations

from collections.abc import Callable

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from preface.backbones.batching import answers_of
from preface.backbones.load import EMBEDDED
from preface.backbones.t5 import T5Backbone
from preface.prompts import Prompts
from preface.tuning.optimizers import AdamW

N, STEPS, RATE, DECAY = 5, 50, 0.2, 0.01
HEADS, D_KV = 4, 8


def config(layers: int) -> T5Config:
    return T5Config(
        vocab_size=200,
        d_model=HEADS * D_KV,  # PEFT knows no other shape
        d_kv=D_KV,
        num_heads=HEADS,
        d_ff=48,
        num_layers=layers,
        num_decoder_layers=layers,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )


def model(layers: int, implementation: str) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    made = T5ForConditionalGeneration._from_config(config(layers), attn_implementation=implementation)
    for name, parameter in made.named_parameters():
        # projections larger than T5's own, so that the prompt counts and a misplaced key or bias shows
        nn.init.normal_(parameter, std=1.0 if "relative" in name or "shared" in name else 0.3)
    return made


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ids, mask and labels of each step, few enough to be learnt; texts and labels of unequal lengths."""
    torch.manual_seed(1)
    drawn = []
    for _ in range(5):
        lengths, label_lengths = torch.randint(1, 12, (6, 1)), torch.randint(1, 5, (6, 1))
        mask = (torch.arange(int(lengths.max())) < lengths).long()
        places = torch.arange(int(label_lengths.max()))
        labels = torch.randint(2, 200, (6, len(places))).masked_fill(places >= label_lengths, -100)
        drawn.append((torch.randint(2, 200, mask.shape) * mask, mask, labels))
    return drawn * (STEPS // 5)


def theirs(wrapped: nn.Module, trained: nn.Parameter) -> list[float]:
    optimizer = torch.optim.AdamW([trained], lr=RATE, weight_decay=DECAY)
    losses = []
    for ids, mask, labels in batches():
        loss = wrapped(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(layers: int, initial: Tensor, prompts_of: Callable[[Tensor], Prompts]) -> list[float]:
    backbone = T5Backbone("random", model(layers, "sdpa"), AutoTokenizer.from_pretrained(EMBEDDED / "nano"))
    trained = initial.detach().clone()[None].requires_grad_(True)  # a population of one
    optimizer = AdamW({"prompt": trained}, weight_decay=DECAY)
    losses = []
    for ids, mask, labels in batches():
        prompts = prompts_of(trained)
        answers, _ = answers_of([row[row != -100].tolist() for row in labels], backbone.lead_in(""))
        pieces = backbone.losses(backbone.read(ids, mask, prompts), answers, labels, prompts)
        loss = pieces.sum() / (labels != -100).sum()
        trained.grad = None
        loss.backward()
        optimizer.step(torch.tensor([RATE]))
        losses.append(loss.item())
    return losses


def assert_same_curve(mine: list[float], other: list[float]) -> None:
    assert mine == pytest.approx(other, abs=1e-4)
    assert sum(mine[:5]) / 5 - sum(mine[-5:]) / 5 > 0.03  # it learns, so that there is something to compare


def test_prompt_tuning_is_pefts() -> None:
    settings = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=N)
    settings.num_transformer_submodules = 1  # else half of its rows are for a decoder that never reads them
    wrapped = peft.get_peft_model(model(2, "sdpa"), settings).train()
    table = wrapped.prompt_encoder["default"].embedding.weight
    initial = table.detach().clone()
    assert initial.shape == (N, HEADS * D_KV)
    expected = theirs(wrapped, table)
    assert_same_curve(ours(2, initial, lambda trained: Prompts({"embeddings": trained})), expected)


def as_peft_reads(table: Tensor, layers: int) -> Prompts:
    """PEFT's table of a prefix, `[P, n, 2L · d]`, as it reaches the decoder.

    PEFT puts the table beside itself, 4L blocks of d numbers, and gives four of them to each layer, of which the first
    two become keys and values in the decoder's self-attention and the others are dropped. Where L is even, half of the
    table is never read and layers share the rest.
    """
    blocks = table.unflatten(-1, (2 * layers, HEADS, D_KV)).permute(2, 0, 3, 1, 4)  # [2L, P, H, n, d_kv]
    keys, values = (
        torch.stack([blocks[(4 * layer + part) % (2 * layers)] for layer in range(layers)], dim=1) for part in (0, 1)
    )  # [P, L, H, n, d_kv]
    return Prompts({"decoder.keys": keys, "decoder.values": values})


@pytest.mark.parametrize(("layers", "read"), [(2, 2), (3, 6)])
def test_decoder_prefix_is_pefts(layers: int, read: int) -> None:
    settings = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=N)
    wrapped = peft.get_peft_model(model(layers, "sdpa"), settings).train()
    table = wrapped.prompt_encoder["default"].embedding.weight
    initial = table.detach().clone()
    expected = theirs(wrapped, table)
    assert table.grad.view(N, 2 * layers, -1).abs().sum((0, 2)).count_nonzero() == read
    assert_same_curve(ours(layers, initial, lambda trained: as_peft_reads(trained, layers)), expected)

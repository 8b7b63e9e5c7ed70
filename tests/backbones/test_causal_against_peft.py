"""Training step by step beside PEFT on a decoder-only model: the same start, batches and optimizer, the same losses."""

from __future__ import annotations

from collections.abc import Callable

import peft
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from preface.backbones.batching import answers_of
from preface.backbones.causal import CausalBackbone
from preface.backbones.load import EMBEDDED
from preface.prompts import Prompts
from preface.tuning.optimizers import AdamW
from tests.backbones.test_against_peft import DECAY, STEPS, assert_same_curve

N, LAYERS, HEADS, WIDTH = 5, 3, 2, 8
RATE = 0.05
CUE = [7, 8]
Row = tuple[list[int], list[int]]


def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=HEADS, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return made


def batches() -> list[list[Row]]:
    """Texts and answers of unequal lengths, few enough to be learnt."""
    torch.manual_seed(1)

    def drawn(most: int) -> list[int]:
        return torch.randint(9, 200, (int(torch.randint(1, most, ())),)).tolist()

    return [[(drawn(12), drawn(4)) for _ in range(6)] for _ in range(5)] * (STEPS // 5)


def theirs(wrapped: nn.Module, trained: nn.Parameter) -> list[float]:
    optimizer = torch.optim.AdamW([trained], lr=RATE, weight_decay=DECAY)
    losses = []
    for rows in batches():
        whole = [[*text, *CUE, *answer] for text, answer in rows]
        longest = max(map(len, whole))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in whole])
        labels = ids.masked_fill(ids == 0, -100)
        for row, (text, _) in enumerate(rows):
            labels[row, : len(text) + len(CUE)] = -100
        loss = wrapped(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(initial: Tensor, prompts_of: Callable[[Tensor], Prompts]) -> list[float]:
    backbone = CausalBackbone("random", model(), AutoTokenizer.from_pretrained(EMBEDDED / "nano"))
    trained = initial.detach().clone()[None].requires_grad_(True)  # a population of one
    optimizer = AdamW({"prompt": trained}, weight_decay=DECAY)
    losses = []
    for rows in batches():
        prompts = prompts_of(trained)
        answers, labels = answers_of([answer for _, answer in rows], CUE)
        context = backbone.read(*backbone.pad([text for text, _ in rows]), prompts)
        loss = backbone.losses(context, answers, labels, prompts).sum() / (labels != -100).sum()
        trained.grad = None
        loss.backward()
        optimizer.step(torch.tensor([RATE]))
        losses.append(loss.item())
    return losses


def test_prompt_tuning_is_pefts() -> None:
    wrapped = peft.get_peft_model(model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N)).train()
    table = wrapped.prompt_encoder["default"].embedding.weight
    initial = table.detach().clone()
    expected = theirs(wrapped, table)
    assert_same_curve(ours(initial, lambda trained: Prompts({"embeddings": trained})), expected)


def turned(keys: Tensor, steps: int) -> Tensor:
    """Keys `[..., e]` moved by so many positions, as rotary positions move them (Su et al. 2021)."""
    angles = steps * 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)  # [e / 2]
    cos, sin = angles.cos().repeat(2), angles.sin().repeat(2)
    first, second = keys.chunk(2, dim=-1)
    return keys * cos + torch.cat([-second, first], dim=-1) * sin


def as_peft_reads(table: Tensor) -> Prompts:
    """PEFT's table of a prefix, `[P, n, 2L · H · e]`: for each layer keys, then values. In PEFT the text begins at
    position n, here at 0, so that its keys stand n positions later there."""
    blocks = table.unflatten(-1, (LAYERS, 2, HEADS, WIDTH)).permute(3, 0, 2, 4, 1, 5)  # [2, P, L, H, n, e]
    return Prompts({"input.keys": turned(blocks[0], -N), "input.values": blocks[1]})


def test_a_prefix_before_the_text_is_pefts() -> None:
    wrapped = peft.get_peft_model(model(), peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N)).train()
    table = wrapped.prompt_encoder["default"].embedding.weight
    initial = table.detach().clone()
    expected = theirs(wrapped, table)
    assert_same_curve(ours(initial, as_peft_reads), expected)

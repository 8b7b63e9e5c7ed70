"""What single methods compute, beside torch's own modules or a closed form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import MultitaskPromptTuningConfig
from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding
from torch import nn

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import METHODS, PrefixTuning, method_named
from preface.methods.decomposed_prompts import DecomposedPrompts, Products
from preface.methods.init import Initializer
from preface.methods.low_dimensional_prompts import LowDimensionalPrompts, MappedUp
from preface.methods.multitask_prompt_tuning import SharedPrompts
from preface.methods.p_tuning import Lstm, PTuning
from preface.methods.residual_prompts import ResidualPrompts
from preface.options import validated


@torch.no_grad()
def test_the_lstm_is_torchs_own() -> None:
    ours = Lstm(d=5, width=3, seeds=[0, 1])
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    table = torch.randn(2, 4, 5)
    made = ours(table)
    for prompt in (0, 1):
        theirs = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)
        for ways, end in ((ours.ahead, ""), (ours.back, "_reverse")):
            for layer, way in enumerate(ways):
                getattr(theirs, f"weight_ih_l{layer}{end}").copy_(way.inputs.weight[prompt].T)
                getattr(theirs, f"bias_ih_l{layer}{end}").copy_(way.inputs.bias[prompt, 0])
                getattr(theirs, f"weight_hh_l{layer}{end}").copy_(way.recurrent[prompt].T)
                getattr(theirs, f"bias_hh_l{layer}{end}").zero_()
        states, _ = theirs(table[prompt : prompt + 1])
        hidden = torch.relu(states[0] @ ours.hidden.weight[prompt] + ours.hidden.bias[prompt])
        torch.testing.assert_close(made[prompt], hidden @ ours.out.weight[prompt] + ours.out.bias[prompt])


@torch.no_grad()
def test_a_pattern_keeps_words_where_they_stand(tiny: Backbone) -> None:
    method = PTuning(pattern="** one text *:", width=6)
    assert method.length == 3
    made = method.build(tiny, Initializer.parse("vocabulary"), [0, 1])().embeddings
    words = tiny.tokenizer("one text", add_special_tokens=False)["input_ids"]
    colon = tiny.tokenizer(":", add_special_tokens=False)["input_ids"]
    assert made.shape[:2] == (2, 3 + len(words) + len(colon))
    torch.testing.assert_close(made[1, 2 : 2 + len(words)], tiny.embeddings[torch.tensor(words)].float())
    torch.testing.assert_close(made[0, -len(colon) :], tiny.embeddings[torch.tensor(colon)].float())
    assert not torch.equal(made[0, :2], made[1, :2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "no virtual token"}, "pattern 'no virtual token': has no *"),
        ({"pattern": "** so *", "length": 4}, "length 4: the pattern has 3 *"),
    ],
)
def test_a_pattern_that_cannot_be(fields: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        validated(PTuning, fields)
    assert message in str(error.value)


@torch.no_grad()
def test_full_rank_begins_at_the_initialisation_and_less_at_the_nearest(tiny: Backbone) -> None:
    start = torch.randn(2, 6, 16)
    torch.testing.assert_close(Products(start, 6).embeddings(), start)
    u, sizes, vt = torch.linalg.svd(start)
    nearest = u[..., :2] @ torch.diag_embed(sizes[:, :2]) @ vt[:, :2]
    torch.testing.assert_close(Products(start, 2).embeddings(), nearest)


def test_repeated_words_still_train_in_every_direction(tiny: Backbone) -> None:
    module = DecomposedPrompts(length=6, rank=4).build(tiny, Initializer.parse("text:one"), [0])
    made = module().embeddings
    torch.testing.assert_close(made[0], made[0, :1].expand_as(made[0]), atol=1e-5, rtol=1e-4)
    (made * torch.randn_like(made)).sum().backward()
    assert (module.left.grad != 0).all()


@torch.no_grad()
def test_points_are_as_near_as_their_directions_allow() -> None:
    start = torch.randn(2, 5, 8)
    module = MappedUp(start, 3, [0, 1])
    centred = start[1] - start[1].mean(0)
    best = torch.linalg.lstsq(module.directions[1].T, centred.T).solution.T  # [n, r]
    torch.testing.assert_close(module.embeddings()[1], best @ module.directions[1] + start[1].mean(0))
    assert not torch.equal(module.directions[0], module.directions[1])


@torch.no_grad()
@pytest.mark.parametrize("method", [ResidualPrompts(length=4), DecomposedPrompts(length=4)])
def test_begins_at_the_initialisation(method, tiny: Backbone) -> None:
    initializer = Initializer.parse("vocabulary")
    made = method.build(tiny, initializer, [3])().embeddings[0]
    start = initializer.embeddings(tiny, 4, 3)
    assert (made - start).abs().max() < 0.05 * start.abs().max()


def test_p_tuning_v2_is_prefix_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    assert method_named("p-tuning-v2") is PrefixTuning
    assert "p-tuning-v2" not in METHODS
    with pytest.raises(UserError, match="one of prefix-tuning, prompt-tuning"):
        method_named("prefix")


def test_low_dimensional_prompts_of_t5_base_are_1736_numbers() -> None:
    """As Wu et al. 2025 count them."""
    base: Any = SimpleNamespace(width=768)
    assert LowDimensionalPrompts(length=100).counts(base).trained == 1_736


@torch.no_grad()
def test_multitask_prompts_are_pefts() -> None:
    """With the same numbers; PEFT has a prompt for each row, of the row's task."""
    config = MultitaskPromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_tasks=3, num_ranks=1, num_virtual_tokens=4, num_transformer_submodules=1,
        token_dim=6, prompt_tuning_init="RANDOM",
    )  # fmt: skip
    theirs = MultitaskPromptEmbedding(config, nn.Embedding(8, 6))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours = SharedPrompts(torch.stack([torch.zeros(4, 6), theirs.embedding.weight]), tasks=3)
    torch.testing.assert_close(ours.embeddings()[3:], theirs.embedding.weight.expand(3, 4, 6))  # u and v are ones
    ours.u[1], ours.v[1] = theirs.prefix_task_cols[..., 0], theirs.prefix_task_rows[:, 0]
    expected = theirs(torch.arange(4).repeat(3, 1), torch.arange(3))
    torch.testing.assert_close(ours.embeddings()[3:], expected)
    torch.testing.assert_close(expected[2], ours.shared[1] * torch.outer(ours.u[1, 2], ours.v[1, 2]))
    assert not ours.embeddings()[:3].any()

"""A population's optimizers against torch's and Transformers', member by member."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers.optimization import Adafactor as TransformersAdafactor

from preface.tuning.optimizers import OPTIMIZERS, OptimizerName, clip_gradients, optimizer
from preface.tuning.recipe import recipe_from

RATES = [1e-2, 3e-1, 1e-4]
SHAPES = {"table": (3, 4, 5), "deep": (3, 2, 3, 4, 5), "bias": (3, 6)}


def reference(name: str, parameters: list[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.1)
    return TransformersAdafactor(
        parameters, lr=rate, scale_parameter=False, relative_step=False, weight_decay=0.1, decay_rate=-0.8
    )


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_each_member_moves_as_if_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    stacked = {key: torch.randn(shape, generator=generator).requires_grad_() for key, shape in SHAPES.items()}
    alone = [
        {key: parameter.detach()[member].clone().requires_grad_() for key, parameter in stacked.items()}
        for member in range(3)
    ]
    references = [reference(name, list(alone[member].values()), RATES[member]) for member in range(3)]
    ours = optimizer(name, stacked, weight_decay=0.1)
    for _ in range(5):
        for key, parameter in stacked.items():
            parameter.grad = torch.randn(SHAPES[key], generator=generator)
            for member in range(3):
                alone[member][key].grad = parameter.grad[member].clone()
        ours.step(torch.tensor(RATES))
        for each in references:
            each.step()
    for key, parameter in stacked.items():
        for member in range(3):
            torch.testing.assert_close(parameter[member], alone[member][key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_name_is_an_optimizer_with_a_recipe(name: OptimizerName) -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))
    recipe = recipe_from({"optimizer": name}, (0.1,))
    assert recipe.model_dump() == recipe.model_dump() | OPTIMIZERS[name].recipe
    assert recipe_from({"optimizer": name, "learning_rates": (0.7,), "weight_decay": 0.5}, (0.1,)).weight_decay == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_leaves_a_member_as_it_is(name: str) -> None:
    parameter = torch.randn(2, 3, 4).requires_grad_()
    before = parameter.detach().clone()
    parameter.grad = torch.randn(2, 3, 4)
    optimizer(name, {"p": parameter}, weight_decay=0.1).step(torch.tensor([0.0, 0.1]))
    assert torch.equal(parameter[0], before[0])
    assert not torch.equal(parameter[1], before[1])


def test_clipping_is_by_member_as_torch_clips() -> None:
    stacked = {key: torch.randn(shape).requires_grad_() for key, shape in SHAPES.items()}
    for parameter in stacked.values():
        parameter.grad = torch.randn_like(parameter)
        parameter.grad[1] *= 1e-3
    alone = [[p.grad[member].clone() for p in stacked.values()] for member in range(3)]
    norms = clip_gradients(stacked, 1.0)
    for member, gradients in enumerate(alone):
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        torch.testing.assert_close(norms[member], norm)
        for parameter, mine in zip(parameters, stacked.values(), strict=True):
            torch.testing.assert_close(mine.grad[member], parameter.grad)

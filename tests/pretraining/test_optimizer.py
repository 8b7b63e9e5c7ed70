from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Adafactor as TransformersAdafactor

from preface.pretraining.optimizer import ScaledAdamW, build_optimizer, restore, state_tensors

SHAPES = [(6, 4), (5,), (3, 7)]


def parameters(scale: float = 0.5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * scale for shape in SHAPES]


def give_gradients(tensors: list[Tensor], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for tensor in tensors:
        tensor.grad = scale * torch.randn(tensor.shape, generator=generator)


def test_scaled_adamw_is_adam_with_rates_times_root_mean_squares() -> None:
    """nanoT5's update, written out: rate × rms(weights) × m̂ / (√v̂ + ε)."""
    ours, expected = parameters(), parameters()
    optimizer = ScaledAdamW(ours)
    means, squares = [torch.zeros_like(p) for p in expected], [torch.zeros_like(p) for p in expected]
    for step in range(1, 6):
        give_gradients(ours, step)
        optimizer.step(0.01)
        give_gradients(expected, step)
        for weights, mean, square in zip(expected, means, squares, strict=True):
            assert weights.grad is not None
            mean.mul_(0.9).add_(0.1 * weights.grad)
            square.mul_(0.99).add_(0.01 * weights.grad**2)
            size = max(float(weights.square().mean().sqrt()), 1e-3)
            unbiased = mean / (1 - 0.9**step), square / (1 - 0.99**step)
            weights.sub_(0.01 * size * unbiased[0] / (unbiased[1].sqrt() + 1e-8))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_zeros_move() -> None:
    weights = torch.zeros(3)
    weights.grad = torch.ones(3)
    ScaledAdamW([weights]).step(0.1)
    assert torch.allclose(weights, torch.full((3,), -1e-4), rtol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_adafactor_is_that_of_transformers(scale: float) -> None:
    """At gradients of any size: clipped ones of a large model are small."""
    ours, theirs = parameters(), [torch.nn.Parameter(p) for p in parameters()]
    optimizer = build_optimizer("adafactor", ours)
    reference = TransformersAdafactor(theirs, lr=1e-2, scale_parameter=True, relative_step=False, warmup_init=False)
    for step in range(1, 6):
        give_gradients(ours, step, scale)
        optimizer.step(1e-2)
        give_gradients(theirs, step, scale)  # type: ignore[arg-type]
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str) -> None:
    straight, stopped = parameters(), parameters()
    one, other = build_optimizer(name, straight), build_optimizer(name, stopped)  # type: ignore[arg-type]
    for step in range(3):
        for tensors, optimizer in ((straight, one), (stopped, other)):
            give_gradients(tensors, step)
            optimizer.step(0.01)
    fresh = build_optimizer(name, stopped)  # type: ignore[arg-type]
    restore(fresh, {key: tensor.clone() for key, tensor in state_tensors(other).items()})
    for step in range(3, 6):
        for tensors, optimizer in ((straight, one), (stopped, fresh)):
            give_gradients(tensors, step)
            optimizer.step(0.01)
    for first, second in zip(straight, stopped, strict=True):
        assert torch.equal(first, second)

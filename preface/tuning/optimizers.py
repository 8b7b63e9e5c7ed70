"""Optimizers for a population: parameters are stacked `[P, ...]`, each member has its own learning rate.

What one member does never depends on the others: moments, clipping and update sizes are taken member by member.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

OptimizerName = Literal["adamw", "adafactor"]


class Optimizer(Protocol):
    """Updates named parameters in place; its state is a flat dictionary of tensors, to be saved and restored."""

    recipe: ClassVar[dict[str, Any]]
    """Fields of `Recipe` whose defaults are others with this optimizer."""
    state: dict[str, Tensor]

    def step(self, rates: Tensor) -> None:
        """One update; `rates` `[P]`: 0 leaves a member as it is."""


def _per_member(values: Tensor, like: Tensor) -> Tensor:
    """`[P]` shaped to broadcast over `[P, ...]`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class AdamW:
    """AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW` computes it."""

    recipe: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, parameters: Mapping[str, Tensor], weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
    ):
        self.parameters, self.weight_decay, self.betas = dict(parameters), weight_decay, betas
        self.state = {"step": torch.zeros(())}
        for name, parameter in self.parameters.items():
            self.state[f"{name}.mean"] = torch.zeros_like(parameter)
            self.state[f"{name}.square"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:
        self.state["step"] += 1
        step, (beta1, beta2) = int(self.state["step"]), self.betas
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            rate = _per_member(rates, parameter)
            mean, square = self.state[f"{name}.mean"], self.state[f"{name}.square"]
            mean.lerp_(parameter.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            denominator = (square / (1 - beta2**step)).sqrt_().add_(1e-8)
            parameter.mul_(1 - rate * self.weight_decay)
            parameter.sub_(torch.where(rate == 0, 0.0, rate * (mean / (1 - beta1**step)) / denominator))


class Adafactor:
    """Adafactor (Shazeer & Stern 2018) as Lester et al. (2021, section 3.1) use it: a given rate, no parameter scaling,
    decay exponent 0.8, update clipping at 1, no momentum."""

    recipe: ClassVar[dict[str, Any]] = {"learning_rates": (0.3,), "schedule": "constant", "weight_decay": 1e-5}

    def __init__(self, parameters: Mapping[str, Tensor], weight_decay: float):
        self.parameters, self.weight_decay = dict(parameters), weight_decay
        self.state = {"step": torch.zeros(())}
        for name, parameter in self.parameters.items():
            if parameter.dim() >= 3:  # [P, ..., rows, columns]: the second moment of a matrix is kept factored
                self.state[f"{name}.row"] = torch.zeros_like(parameter[..., 0])
                self.state[f"{name}.column"] = torch.zeros_like(parameter[..., 0, :])
            else:
                self.state[f"{name}.square"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:
        self.state["step"] += 1
        decay = 1 - float(self.state["step"]) ** -0.8
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            square = parameter.grad.square() + 1e-30
            if parameter.dim() >= 3:
                row, column = self.state[f"{name}.row"], self.state[f"{name}.column"]
                row.lerp_(square.mean(-1), 1 - decay)
                column.lerp_(square.mean(-2), 1 - decay)
                scale = (row / row.mean(-1, keepdim=True)).rsqrt_()[..., None] * column.rsqrt()[..., None, :]
            else:
                scale = self.state[f"{name}.square"].lerp_(square, 1 - decay).rsqrt()
            update = parameter.grad * scale
            size = update.flatten(1).square().mean(1).sqrt()  # root mean square of each member's update, [P]
            update = update / _per_member(size.clamp(min=1.0), update)
            rate = _per_member(rates, parameter)
            parameter.mul_(1 - rate * self.weight_decay)
            parameter.sub_(torch.where(rate == 0, 0.0, rate * update))  # 0 also where a stopped member is NaN


OPTIMIZERS: dict[OptimizerName, type[AdamW | Adafactor]] = {"adamw": AdamW, "adafactor": Adafactor}


def optimizer(name: OptimizerName, parameters: Mapping[str, Tensor], weight_decay: float) -> Optimizer:
    """The optimizer of that name over stacked parameters."""
    return OPTIMIZERS[name](parameters, weight_decay)


@torch.no_grad()
def clip_gradients(parameters: Mapping[str, Tensor], largest: float | None) -> Tensor:
    """Scale each member's gradient to a norm of at most `largest` (None: only measure); returns norms `[P]`."""
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)  # [P]
    if largest is not None:
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(_per_member(factors, gradient))
    return norms

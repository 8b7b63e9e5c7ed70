"""Optimizers for all weights of a model: AdamW scaled by each matrix's size, and Adafactor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preface.pretraining.settings import OptimizerName

SMALLEST_SIZE = 1e-3
"""A matrix counts as at least so large, or zeros would never move (Shazeer & Stern 2018, section 8)."""


class ScaledAdamW:
    """AdamW whose rate for each weight matrix is multiplied by that matrix's root mean square.

    That scaling is what Adafactor has and Adam lacks, and what T5's large embeddings and small projections need
    (Nawrot 2023, nanoT5, section 3). The update itself is torch's fused AdamW, one parameter group a matrix.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.roots = [parameter.numel() ** 0.5 for parameter in self.parameters]
        groups = [
            {"params": [parameter], "lr": torch.zeros((), device=parameter.device)} for parameter in self.parameters
        ]
        self.torch_optimizer = torch.optim.AdamW(
            groups, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay, fused=True
        )

    @torch.no_grad()
    def step(self, rate: float) -> None:
        norms = torch._foreach_norm(self.parameters)
        sizes = torch._foreach_clamp_min(torch._foreach_div(norms, self.roots), SMALLEST_SIZE)
        rates = [group["lr"] for group in self.torch_optimizer.param_groups]  # tensors, so that they stay on the device
        torch._foreach_copy_(rates, torch._foreach_mul(sizes, rate))
        self.torch_optimizer.step()


class Adafactor:
    """Adafactor (Shazeer & Stern 2018), torch's own, which scales by each matrix's size too, and takes no more than
    1 / √step as its rate."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0) -> None:
        # T5's decay of −0.8 and ε of 1e-30, whose root torch asks for; its own ε would outweigh clipped gradients
        self.torch_optimizer = torch.optim.Adafactor(
            list(parameters), lr=1.0, beta2_decay=-0.8, eps=(1e-15, SMALLEST_SIZE), weight_decay=weight_decay
        )

    def step(self, rate: float) -> None:
        self.torch_optimizer.param_groups[0]["lr"] = rate
        self.torch_optimizer.step()


Optimizer = ScaledAdamW | Adafactor


def build_optimizer(name: OptimizerName, parameters: Sequence[Tensor], weight_decay: float = 0.0) -> Optimizer:
    """The optimizer of that name over a model's weights."""
    return (ScaledAdamW if name == "adamw" else Adafactor)(parameters, weight_decay)


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dictionary, `INDEX.NAME`."""
    state = optimizer.torch_optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def restore(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `state_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    inner = optimizer.torch_optimizer
    inner.load_state_dict({"state": state, "param_groups": inner.state_dict()["param_groups"]})

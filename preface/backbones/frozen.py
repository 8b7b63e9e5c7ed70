"""What may be computed otherwise because the weights are frozen: the same functions, with less work or memory.

What each of them saves is in docs/performance.md.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import NewGELUActivation

FEW = 256
"""Rows up to which a product of a CPU runs faster with the weights on its left."""
SMALL = 100_000_000
"""Parameters of a model up to which its projections are held in two layouts on a CPU, one for each direction."""
PIECES = 256
"""Positions whose logits are held at a time: 33 MB at T5's vocabulary."""


def make_frozen(model: nn.Module) -> None:
    """Let a model whose weights get no gradient compute with the layers of this module."""
    fuse_gelu(model)
    small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
            module.small = small  # type: ignore[assignment]
        elif hasattr(module, "variance_epsilon"):  # the layer norms of T5 and mT5
            module.__class__ = FrozenNorm


def fuse_gelu(model: nn.Module) -> None:
    """Compute T5's GELU in one kernel instead of eight; the function stays the same."""
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = nn.GELU(approximate="tanh")


def refuse_gradient(weight: Tensor) -> None:
    """Raise RuntimeError where a weight wants a gradient, which frozen layers do not give."""
    if weight.requires_grad:
        raise RuntimeError(
            "a weight of a frozen backbone wants a gradient, which its layers do not give; to train weights, take the "
            "model of `load_checkpoint`"
        )


class FrozenLinear(nn.Linear):
    """A projection without bias. For few rows the weights stand on the left: `(W xᵀ)ᵀ`.

    The BLAS library cuts the larger operand into what its cores share; on the left it need not be packed anew.
    """

    small: bool
    softcap: float | None = None
    """Of a projection onto the vocabulary: logits stay within ± this (Gemma 2)."""

    def logits_of(self, hidden: Tensor, pieces: Tensor) -> Tensor:
        """The logits of some pieces alone, `[..., d]` and `[...]` to `[...]`, float32.

        Rounded to bfloat16, different pieces would tie.
        """
        logits = (hidden.float() * self.weight[pieces].float()).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[pieces].float()
        return self.capped(logits)

    def capped(self, logits: Tensor) -> Tensor:
        """Within the cap, if there is one."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @cached_property
    def turned(self) -> Tensor:
        """What the gradient is multiplied with, `[in, out]`: in a small model a copy, which is read faster."""
        turned = self.weight.detach().t()
        return turned.contiguous() if self.small and _on_the_left(self.weight, 1) else turned

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        refuse_gradient(self.weight)
        if self.bias is not None or not _on_the_left(input, input.numel() // input.shape[-1]):
            return functional.linear(input, self.weight, self.bias)
        output: Tensor = _FewRows.apply(input, self)
        return output


def _on_the_left(tensor: Tensor, rows: int) -> bool:
    return rows <= FEW and tensor.device.type == "cpu" and tensor.dtype == torch.float32


class _FewRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        rows = input.reshape(-1, input.shape[-1])
        return torch.mm(layer.weight, rows.t()).t().view(*input.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows = gradient.reshape(-1, gradient.shape[-1])
        return torch.mm(ctx.layer.turned, rows.t()).t().view(*gradient.shape[:-1], -1), None


class FrozenNorm(nn.Module):
    """T5's layer norm (root mean square, no shift), its gradient in closed form."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[..., d]` to `[..., d]`."""
        refuse_gradient(self.weight)
        output: Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)
        return output


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()  # [..., 1]
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).to(weight.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        scaled = (gradient * weight).float()
        # d(x / rms)/dx = 1/rms - x xᵀ / (d rms³)
        along = (scaled * x).sum(-1, keepdim=True).mul_(inverse.square()).div_(-x.shape[-1])  # [..., 1]
        return scaled.addcmul_(x, along).mul_(inverse).to(x.dtype), None, None


@torch.no_grad()
def log_total(hidden: Tensor, head: FrozenLinear) -> Tensor:
    """log Σ exp of all logits, which turns a logit into a log-probability: `[M, d]` to `[M]`, float32."""
    return torch.cat([_logits(some, head).logsumexp(0) for some in hidden.split(PIECES)])


def _logits(hidden: Tensor, head: FrozenLinear) -> Tensor:
    """All logits, `[vocabulary, m]`, float32."""
    logits = torch.mm(head.weight, hidden.t()).float()
    if head.bias is not None:
        logits += head.bias.float()[:, None]
    return head.capped(logits)


def cross_entropy(hidden: Tensor, head: FrozenLinear, labels: Tensor) -> Tensor:
    """−log of the probability of each label piece under the full softmax, float32.

    The projection onto the vocabulary, the loss and the gradient of the hidden states are computed together, some
    positions at a time, so that the logits of a large population are never held.

    Args:
        hidden: what the projection reads, `[M, d]`.
        head: the frozen projection onto the vocabulary.
        labels: `[M]`.

    Returns:
        `[M]`.
    """
    refuse_gradient(head.weight)
    losses: Tensor = _CrossEntropy.apply(hidden, head, labels)
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenLinear, labels: Tensor) -> Tensor:
        losses, gradients = [], []
        for some, label in zip(hidden.split(PIECES), labels.split(PIECES), strict=True):
            own = head.weight[label]  # [m, d]
            logit = head.logits_of(some, label)  # [m]
            logits = _logits(some, head)  # [vocabulary, m]
            slope = None if head.softcap is None else 1 - (logits / head.softcap).square()
            largest = logits.amax(0)
            powers = logits.sub_(largest).exp_()
            total = powers.sum(0)  # [m]
            losses.append(total.log() + largest - logit)
            if ctx.needs_input_grad[0]:
                if slope is not None:  # of a capped logit
                    powers *= slope
                    own = own * slope.gather(0, label[None]).t().to(own.dtype)
                expected = torch.mm(head.turned, powers.to(some.dtype)).t() / total[:, None]  # [m, d]
                gradients.append((expected - own).to(some.dtype))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * gradient[:, None]).to(gradients.dtype), None, None

"""What may be computed otherwise because the weights are frozen: the same functions, with less work or memory.

What each of them saves is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import NewGELUActivation

from preface.backbones.packed import pack, packing_pays, times

PACKED = ("packed", "packed_back")
PIECES = 256
"""Positions whose logits are held at a time: 33 MB at T5's vocabulary."""


def make_frozen(model: nn.Module, head: nn.Module | None = None) -> None:
    """Let a model whose weights get no gradient compute with the layers of this module; `head`: its projection onto the
    vocabulary."""
    fuse_gelu(model)
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    copies = 2 * sum(linear.weight.nbytes for linear in linears)  # one for each direction
    for linear in linears:
        linear.__class__ = FrozenLinear
        linear.packs = copies <= psutil.virtual_memory().total / 8  # type: ignore[assignment]
        linear.keeps_plain = linear is head  # type: ignore[assignment]
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):  # the layer norms of T5 and mT5
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
    """A projection whose weights a CPU holds laid out for the products of each direction, once they are wanted.

    Torch's own products lay the weights out anew at every call. The weights as they came are let go then.
    """

    packs: bool
    """Whether there is memory for that."""
    keeps_plain: bool = True
    """Whether the weights are held as they came too, for others read them."""
    softcap: float | None = None
    """Of a projection onto the vocabulary: logits stay within ± this (Gemma 2)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits, `[..., d]` to `[..., vocabulary]`, float32."""
        return self._capped(self(hidden).float())

    def logits_of(self, hidden: Tensor, pieces: Tensor) -> Tensor:
        """The logits of some pieces alone, `[..., d]` and `[...]` to `[...]`, float32.

        Rounded to bfloat16, different pieces would tie.
        """
        logits = (hidden.float() * self.weight[pieces].float()).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[pieces].float()
        return self._capped(logits)

    def _capped(self, logits: Tensor) -> Tensor:
        """Within the cap, if there is one."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @cached_property
    def packed(self) -> Tensor:
        """For products on the way forward."""
        packed = pack(self.weight)
        if not self.keeps_plain:
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)
        return packed

    @cached_property
    def packed_back(self) -> Tensor:
        """For products with the gradient of the output."""
        return pack(self.plain.t())

    @property
    def plain(self) -> Tensor:
        """The weights as they came, `[out, in]`."""
        return self.weight if self.weight.numel() else self.packed.to_dense()

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        refuse_gradient(self.weight)
        if not self.is_packed:
            return functional.linear(input, self.weight, self.bias)
        output: Tensor = _PackedLinear.apply(input, self)
        return output

    def unpack(self) -> None:
        """Hold the weights as they came again, and nothing else."""
        if not self.weight.numel():
            self.weight = nn.Parameter(self.plain, requires_grad=False)
        for name in PACKED:
            self.__dict__.pop(name, None)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """To another device or precision, to which packed weights cannot go."""
        self.unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.plain

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed weights, which nothing can copy or write."""
        state = {name: item for name, item in self.__dict__.items() if name not in PACKED}
        if not self.weight.numel():
            state["_parameters"] = {**self._parameters, "weight": nn.Parameter(self.plain, requires_grad=False)}
        return state

    @property
    def is_packed(self) -> bool:
        """Whether products go with packed weights here."""
        return self.packs and packing_pays(self.weight.device, self.weight.dtype)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of the input `[M, in]`, from that of the output `[M, out]`."""
        return times(gradient, self.packed_back) if self.is_packed else torch.mm(gradient, self.weight)


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` has, sorted by name, one by one: packed weights are made plain in turn, never all together."""
    named = [
        (f"{path}.{name}" if path else name, module, name)
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    ]
    for full, module, name in sorted(named, key=lambda item: item[0]):
        packed = isinstance(module, FrozenLinear) and name == "weight"
        yield full, module.plain if packed else getattr(module, name)


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return times(input, layer.packed, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return times(gradient, ctx.layer.packed_back), None


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
    return torch.cat([head.logits(some).logsumexp(1) for some in hidden.split(PIECES)])


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
            logits = head.logits(some)  # [m, vocabulary]
            slope = None if head.softcap is None else 1 - (logits / head.softcap).square()
            largest = logits.amax(1, keepdim=True)
            powers = logits.sub_(largest).exp_()
            total = powers.sum(1, keepdim=True)  # [m, 1]
            losses.append((total.log() + largest)[:, 0] - logit)
            if ctx.needs_input_grad[0]:
                if slope is not None:  # of a capped logit
                    powers *= slope
                    own = own * slope.gather(1, label[:, None]).to(own.dtype)
                expected = head.back(powers.to(some.dtype)) / total  # [m, d]
                gradients.append((expected - own).to(some.dtype))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * gradient[:, None]).to(gradients.dtype), None, None

"""A backbone whose weights are held in 8 or 4 bits, for one that a small GPU does not hold otherwise.

What is held so is the products between layers; embeddings, norms, and the projection onto the vocabulary stay as they
are, and so do prompts. `int8`: a scale for each row; `nf4`: a scale for each 64 weights of 4 bits, which stand for
normally distributed values (bitsandbytes; Dettmers et al. 2023, section 3).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from preface.backbones.base import Backbone
from preface.backbones.frozen import FrozenLinear
from preface.errors import UserError
from preface.extras import check_installed

MARK = "@"
"""Between a backbone's name and how its weights are held: `smollm2@nf4`."""


def split_name(name_or_path: str | Path) -> tuple[str, str | None]:
    """A backbone's name without how its weights are held, and that; None: as they come."""
    name, mark, kind = str(name_or_path).rpartition(MARK)
    return (name, kind) if mark and kind in KINDS else (str(name_or_path), None)


def name_with(name_or_path: str | Path, kind: str) -> str:
    """A backbone's name with how its weights are to be held. Raises UserError where there is no such way, or the name
    says another."""
    if kind not in KINDS:
        raise UserError(f"quantize {kind}: one of {', '.join(KINDS)}")
    name, named = split_name(name_or_path)
    if named not in (None, kind):
        raise UserError(f"quantize {kind}: the backbone is named {name_or_path}; leave one of the two out")
    return f"{name}{MARK}{kind}"


def quantize(backbone: Backbone, kind: str, device: torch.device) -> None:
    """Hold a backbone's weights so, and all of it on a device; raises UserError where the library is missing.

    Its fingerprint stays that of the weights as they came: a prompt fits both.
    """
    if kind == "nf4":
        check_installed("quantize", f"quantize {kind}")
    exact = hashlib.sha256(f"{backbone.exact_fingerprint} {kind}".encode()).hexdigest()
    backbone.__dict__ |= {"fingerprint": backbone.fingerprint, "exact_fingerprint": exact}
    for parent in list(backbone.model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenLinear) and child is not backbone.head:
                child.unpack()
                setattr(parent, name, KINDS[kind](child, device))
    backbone.model.to(device)
    backbone.quantized = kind


class Int8Linear(nn.Module):
    """A frozen projection: whole numbers of 8 bits, and a scale for each row.

    The same numbers as torchao's `Int8WeightOnlyConfig`, which keeps a copy in the model's precision of every layer for
    the way back, and which Transformers imports at every start, for seconds, once it is installed.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: FrozenLinear, device: torch.device) -> None:
        super().__init__()
        weight = linear.weight.detach().to(device).float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127  # [out, 1]
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))  # [out, in]
        self.register_buffer("scale", scale[:, 0].to(linear.weight.dtype))  # [out]
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        output: Tensor = _Int8Product.apply(input, self.weight, self.scale)
        return output if self.bias is None else output + self.bias


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(input, weight.to(input.dtype)).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return (gradient * scale) @ weight.to(gradient.dtype), None, None


def _nf4(linear: FrozenLinear, device: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    weight, bias = linear.weight, linear.bias
    # stored as numbers of the model's own precision: T5 casts what it multiplies to that of its weights
    kinds: dict[str, Any] = {"quant_type": "nf4", "quant_storage": weight.dtype}
    held = Linear4bit(linear.in_features, linear.out_features, bias is not None, weight.dtype, **kinds)
    held.weight = Params4bit(weight.detach().contiguous(), requires_grad=False, module=held, **kinds)
    held.bias = bias
    return held.to(device)


KINDS = {"int8": Int8Linear, "nf4": _nf4}
"""How weights can be held."""

"""Products with frozen weights that oneDNN has laid out once: torch's own lay them out anew at every call.

What that gains on which machine is in docs/performance.md. The operators are those that `torch.compile` freezes weights
with; torch gives them no public name, so where they are missing plain products serve.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

ROWS = 32
"""Rows that packed weights are laid out for; any number may be multiplied with them, at no loss that was measured."""


BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""A CPU's instructions that multiply in bfloat16, as torch calls them (the last: Arm's)."""


@cache
def packing_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """On a CPU, in precisions that it multiplies in hardware, where torch has oneDNN's operators."""
    if (
        device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
        or not hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bfloat16_is_fast(device))


def pack(weight: Tensor) -> Tensor:
    """`[out, in]` as oneDNN lays it out for products: a tensor that only `times` can read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
    return packed


def times(input: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """`[..., in]` times packed weights, `[..., out]`."""
    rows = input.reshape(-1, input.shape[-1])
    output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return output.view(*input.shape[:-1], output.shape[-1])


def bfloat16_is_fast(device: torch.device) -> bool:
    """True where matrix products in bfloat16 run in hardware; elsewhere they are emulated, up to 90 x slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(bfloat16_instructions())
    return False


def bfloat16_instructions() -> list[str]:
    """Those of `BFLOAT16` that this machine's CPU has."""
    able = torch.cpu.get_capabilities()
    return [name for name in BFLOAT16 if able.get(name)]

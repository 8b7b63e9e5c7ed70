"""A backbone whose layers lie in parts on several processes (FSDP, Zhao et al. 2023): one that no device holds.

A layer is put together when it is wanted, on every process at the same time, and let go after it: so all processes
must go through the model in step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from preface.backbones.base import Backbone
from preface.backbones.frozen import FrozenLinear
from preface.errors import UserError


def shard(backbone: Backbone, device: torch.device, count: int) -> None:
    """Leave every process a part of each layer's weights, on its own device; all else is whole on each.

    The process group is there already (`accelerate`). Raises UserError for weights that are held in fewer bits.
    """
    if backbone.quantized is not None:
        raise UserError(f"spread weights: not with weights in {backbone.quantized}; leave one of the two out")
    _ = backbone.fingerprint, backbone.exact_fingerprint  # of the whole weights, while they are
    mesh = init_device_mesh(device.type, (count,))
    for layer in layers_of(backbone.model):
        for module in layer.modules():
            if isinstance(module, FrozenLinear):
                module.unpack()
                module.packs = False  # a copy for products would be whole
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        layer.register_forward_hook(_whole_for_keys, with_kwargs=True)
    backbone.model.to(device)


def _whole_for_keys(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """A hook after a layer: the keys and values of a text leave a decoder-only layer beside its output, where FSDP does
    not see their gradients come back."""
    made = getattr(kwargs.get("call"), "made", None)
    for tensor in made[-1] if made else ():
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: layer.unshard())


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Of every stack of layers."""
    stacks: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in stacks)
        if isinstance(module, nn.ModuleList) and not inside:
            stacks.append((name, module))
    return [layer for _, stack in stacks for layer in stack]

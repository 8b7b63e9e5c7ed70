"""A prompt and the backbone it is used with: which one is loaded, and whether the prompt was made for it."""

from __future__ import annotations

from pathlib import Path

from preface.backbones.base import Backbone
from preface.backbones.load import dtype_name, load_backbone
from preface.errors import UserError
from preface.records.card import Origin
from preface.terminal.progress import warn


def loaded(backbone: Backbone | str | Path | None, dtype: str = "auto", device: str = "auto") -> Backbone:
    """A backbone, loaded unless it is; None: the default one.

    Raises UserError if it is loaded, but not as `dtype` and `device` say.
    """
    if not isinstance(backbone, Backbone):
        return load_backbone(backbone, dtype, device)
    kind = device.split(":")[0]
    for name, wanted, found in (("dtype", dtype, dtype_name(backbone.dtype)), ("device", kind, backbone.device.type)):
        if wanted not in ("auto", found):
            raise UserError(f"{name} {wanted}: the backbone {backbone.name} is loaded already, as {found}")
    return backbone


def backbone_of(
    origin: Origin,
    named: Backbone | str | Path | None = None,
    known: Backbone | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Backbone:
    """The backbone for a prompt: the one named by hand, else the one that is known to be its own, else its own by name.

    Raises UserError if it cannot be loaded, has other sizes, or, where it is not named by hand, other weights.
    """
    backbone = loaded(named or known or origin.backbone, dtype, device)
    if origin.shape != backbone.sizes:
        raise UserError(
            f"the prompt was trained on {origin.backbone} and does not fit {backbone.name}, whose sizes differ"
        )
    if origin.fingerprint != backbone.fingerprint:
        line = f"the prompt was trained on other weights of {origin.backbone} than these of {backbone.name}"
        if named is None:
            commit = f" (commit {origin.revision})" if origin.revision else ""
            raise UserError(f"{line}{commit}; name a backbone with --backbone to use it all the same")
        warn(line)
    return backbone

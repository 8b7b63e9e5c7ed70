"""Prefix tuning: n trained keys and values before those of every layer (Li & Liang 2021, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from preface.backbones.t5 import Backbone, Shape
from preface.methods.base import INIT, Bank, Counts, Method
from preface.methods.init import Initializer, hash_seed, key_values, uniform
from preface.prompts import SITES, Injection, KeyValues, Site

PARTS = ("keys", "values")


class PrefixTuning(Method):
    """Keys and values at any of the three attention sites."""

    name: ClassVar[str] = "prefix-tuning"
    summary: ClassVar[str] = "keys, values in every layer"
    rates: ClassVar[tuple[float, ...]] = (1e-2, 3e-2, 1e-1)

    init: str = Field("activations", description=INIT)
    sites: tuple[Site, ...] = Field(SITES, description="Where a prefix goes: encoder decoder cross. Default: all.")
    reparametrize: int | None = Field(
        None, ge=1, description="Train the prefix through an MLP of this width, dropped on export."
    )
    """Li & Liang, section 4.3."""
    positions: Literal["preceding", "none"] = Field(
        "preceding", description="Position bias of prefix keys: preceding or none."
    )
    """`preceding`: the keys stand just before the first token and get T5's learned bias of that distance, as the
    same keys in a cache would; so activations of real text mean here what they meant there. `none`: no bias, which
    lets every token see the prefix alike, however long the input."""

    @field_validator("sites")
    @classmethod
    def _some_sites(cls, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        if not sites:
            raise ValueError(f"at least one of {', '.join(SITES)}")
        return tuple(site for site in SITES if site in sites)

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> Bank:
        starts = {
            seed: key_values(backbone, self.sites, initializer, self.length, seed) for seed in dict.fromkeys(seeds)
        }
        names = starts[seeds[0]]
        start = {name: torch.stack([starts[seed][name] for seed in seeds]) for name in names}
        if self.reparametrize is None:
            bank: Bank = PrefixBank(start, self.positions == "preceding")
        else:
            bank = ReparametrizedPrefixBank(
                start, self.positions == "preceding", backbone.shape.d_model, self.reparametrize, seeds
            )
        return bank.to(backbone.device)

    def counts(self, shape: Shape) -> Counts:
        one_layer = 2 * self.length * shape.heads * shape.d_kv
        stored = sum(shape.layers(site) * one_layer for site in self.sites)
        if self.reparametrize is None:
            return Counts(trained=stored, stored=stored)
        width = self.reparametrize
        trained = sum(
            self.length * shape.d_model  # the embeddings
            + shape.d_model * width + width
            + (width + 1) * shape.layers(site) * 2 * shape.heads * shape.d_kv
            for site in self.sites
        )  # fmt: skip
        return Counts(trained=trained, stored=stored)


class PrefixBank(Bank):
    """P prefixes; `"site.keys"` and `"site.values"` are `[P, L, H, n, d_kv]`."""

    def __init__(self, start: dict[str, Tensor], preceding: bool) -> None:
        super().__init__()
        self.preceding = preceding
        # a parameter's name may not hold a dot
        self.tables = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(item) for name, item in start.items()})

    def injection(self) -> Injection:
        return _injection({name: self.tables[name] for name in self.tables}, self.preceding)


class ReparametrizedPrefixBank(Bank):
    """P prefixes, each made by its own embeddings `[n, d_model]` and a two-layer tanh MLP a site.

    The MLP's output is added to the start, which stays as it is; its last layer begins small, so that training
    starts at the initialisation whatever that is.
    """

    SMALL = 0.01

    def __init__(
        self, start: dict[str, Tensor], preceding: bool, d_model: int, width: int, seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self.preceding = preceding
        self.sites = [site for site in SITES if f"{site}.keys" in start]
        self.layers = nn.ParameterDict()
        for site in self.sites:
            both = torch.stack([start[f"{site}.{part}"] for part in PARTS], dim=2)  # [P, L, 2, H, n, d_kv]
            both = both.permute(0, 4, 1, 2, 3, 5).contiguous()  # [P, n, L, 2, H, d_kv]
            self.register_buffer(f"{site}_start", both)
            length, out = both.shape[1], both[0, 0].numel()
            sizes = {
                "embeddings": ((length, d_model), 1.0),
                "up": ((d_model, width), d_model**-0.5),
                "up_bias": ((width,), 0.0),
                "down": ((width, out), self.SMALL * width**-0.5),
                "down_bias": ((out,), 0.0),
            }
            for name, (size, scale) in sizes.items():
                drawn = [uniform(size, hash_seed(seed, site, name)) * 2 * scale for seed in seeds]
                self.layers[f"{site}_{name}"] = nn.Parameter(torch.stack(drawn))

    def injection(self) -> Injection:
        made: dict[str, Tensor] = {}
        for site in self.sites:
            embeddings, up, up_bias, down, down_bias = (
                self.layers[f"{site}_{name}"] for name in ("embeddings", "up", "up_bias", "down", "down_bias")
            )
            hidden = torch.tanh(embeddings @ up + up_bias[:, None])  # [P, n, width]
            start: Tensor = getattr(self, f"{site}_start")  # [P, n, L, 2, H, d_kv]
            both = start + (hidden @ down + down_bias[:, None]).view_as(start)
            keys, values = both.permute(3, 0, 2, 4, 1, 5)  # each [P, L, H, n, d_kv]
            made |= {f"{site}_keys": keys, f"{site}_values": values}
        return _injection(made, self.preceding)


def _injection(tables: dict[str, Tensor], preceding: bool) -> Injection:
    sites = {}
    for site in SITES:
        if f"{site}_keys" in tables:
            keys, values = tables[f"{site}_keys"], tables[f"{site}_values"]
            relative = None if preceding else torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
            sites[site] = KeyValues.from_stacked(keys, values, relative=relative)
    return Injection(**sites)  # type: ignore[arg-type]

"""Prefix tuning: n trained keys and values before those of every layer (Li & Liang 2021, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods.base import INIT, Counts, Method, PromptModule
from preface.methods.init import Initializer, hash_seed, key_values, uniform
from preface.prompts import Prompts

PARTS = ("keys", "values")


class PrefixTuning(Method):
    """Keys and values at any of the attention sites."""

    name: ClassVar[str] = "prefix-tuning"
    summary: ClassVar[str] = "keys, values in every layer"
    rates: ClassVar[tuple[float, ...]] = (1e-2, 3e-2, 1e-1)
    mlp_rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)
    """Through an MLP. Development scores of nano on film after 60 steps: 0.85, 0.83 and, at 0.01, 0.77."""

    init: str = Field("activations", description=INIT)
    sites: tuple[str, ...] | None = Field(
        None,
        description="Attention sites of a prefix, of T5 encoder, decoder, cross (default: all), of decoder-only models "
        "input, answer (default: answer, which the answer alone sees).",
    )
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
    def _some_sites(cls, sites: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if sites is not None and not sites:
            raise ValueError("at least one, or leave it out for all")
        return sites

    @property
    def default_rates(self) -> tuple[float, ...]:
        return self.rates if self.reparametrize is None else self.mlp_rates

    def sites_of(self, backbone: Backbone) -> list[str]:
        """The sites, in the backbone's order. Raises UserError for one that it has not."""
        known = list(backbone.sites)
        chosen = backbone.default_sites if self.sites is None else self.sites
        for site in chosen:
            if site not in known:
                raise UserError(f"sites {site}: {backbone.name} has {', '.join(known)}")
        return [site for site in known if site in chosen]

    def build(self, backbone: Backbone, initializer: Initializer, seeds: Sequence[int]) -> PromptModule:
        sites = self.sites_of(backbone)
        starts = {seed: key_values(backbone, sites, initializer, self.length, seed) for seed in dict.fromkeys(seeds)}
        names = starts[seeds[0]]
        start = {name: torch.stack([starts[seed][name] for seed in seeds]) for name in names}
        if self.positions == "none":
            if not backbone.position_bias:
                raise UserError(f"positions none: {backbone.name} has no bias by position; leave it out")
            start |= {f"{site}.relative": torch.zeros(len(seeds), dtype=torch.bool) for site in sites}
        if self.reparametrize is None:
            return Prefixes(start).to(backbone.device)
        return ReparametrizedPrefixes(start, backbone.width, self.reparametrize, seeds).to(backbone.device)

    def counts(self, backbone: Backbone) -> Counts:
        sites = [backbone.sites[site] for site in self.sites_of(backbone)]
        a_token = [2 * site.layers * site.heads * site.width for site in sites]
        stored = self.length * sum(a_token)
        if self.reparametrize is None:
            return Counts(trained=stored, stored=stored)
        width, d = self.reparametrize, backbone.width
        embeddings, up = self.length * d, (d + 1) * width
        return Counts(trained=sum(embeddings + up + (width + 1) * size for size in a_token), stored=stored)


class Prefixes(PromptModule):
    """P prefixes; `SITE.keys` and `SITE.values` are `[P, L, H, n, d_head]`."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        self.tables = nn.ParameterDict()
        for name, item in start.items():  # a parameter's name may not hold a dot
            if item.is_floating_point():
                self.tables[_plain(name)] = nn.Parameter(item)
            else:
                self.register_buffer(_plain(name), item)
        self.names = list(start)

    def forward(self) -> Prompts:
        return Prompts(
            {
                name: self.tables[key] if (key := _plain(name)) in self.tables else getattr(self, key)
                for name in self.names
            }
        )


class ReparametrizedPrefixes(PromptModule):
    """P prefixes, each made by its own embeddings `[n, d_model]` and a two-layer tanh MLP a site.

    The MLP's output is added to the start, which stays as it is; its last layer begins small, so that training
    starts at the initialisation whatever that is.
    """

    SMALL = 0.01

    def __init__(self, start: dict[str, Tensor], d_model: int, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.sites = [name.removesuffix(".keys") for name in start if name.endswith(".keys")]
        self.relative = [name for name in start if name.endswith(".relative")]
        for name in self.relative:
            self.register_buffer(_plain(name), start[name])
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

    def forward(self) -> Prompts:
        made: dict[str, Tensor] = {name: getattr(self, _plain(name)) for name in self.relative}
        for site in self.sites:
            embeddings, up, up_bias, down, down_bias = (
                self.layers[f"{site}_{name}"] for name in ("embeddings", "up", "up_bias", "down", "down_bias")
            )
            hidden = torch.tanh(embeddings @ up + up_bias[:, None])  # [P, n, width]
            start: Tensor = getattr(self, f"{site}_start")  # [P, n, L, 2, H, d_kv]
            both = start + (hidden @ down + down_bias[:, None]).view_as(start)
            keys, values = both.permute(3, 0, 2, 4, 1, 5)  # each [P, L, H, n, d_kv]
            made |= {f"{site}.keys": keys, f"{site}.values": values}
        return Prompts(made)


def _plain(name: str) -> str:
    """A name that a module's parameter or buffer may have."""
    return name.replace(".", "_")

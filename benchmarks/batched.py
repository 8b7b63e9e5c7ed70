"""Where mathematics written by hand, for a population or for frozen weights, beats torch's own.

    OMP_NUM_THREADS=2 python benchmarks/batched.py [--runs 7] [--dtype bfloat16] [--only NAME …] [--out batched.json]

T5-small's sizes, batch 16 a prompt, SST-2's lengths, 1 and 8 prompts. Both sides of a pair compute the same thing,
which is checked first (or the program ends with code 1); then their runs alternate, forward and backward where there is
a gradient. Times are medians, a ratio is the median of the runs' own ratios: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isclose
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from sides import BATCH, SMALL, TARGET, hardware, rows, seconds, show
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad

from preface.backbones import batching, products
from preface.backbones.frozen import FrozenLinear, cross_entropy
from preface.backbones.products import Keys, Projected, SideBySide
from preface.methods.prefix_tuning import ReparametrizedPrefixes
from preface.prompts import of_rows
from preface.records.results import installed_versions
from preface.tuning.optimizers import AdamW, clip_gradients

Results = Sequence[Tensor]
Work = Callable[[], tuple[Results, Results]]
"""Gives results and gradients."""
Pair = tuple[str, Work, Work]
"""What is done, by us and by torch."""

POPULATIONS = (1, 8)
PREFIX, PROMPT = 20, 100  # virtual tokens
LAYERS, HEADS, WIDTH, D = (SMALL[name] for name in ("num_layers", "num_heads", "d_kv", "d_model"))
LOWEST = torch.finfo(torch.bfloat16).min  # in either precision
RUN_SECONDS = 0.05  # of a run at least: short work is repeated


def trained(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def there_and_back(function: Callable[[], Results], parameters: Results) -> Work:
    """A function's results and, from random gradients of these, the gradients of its parameters."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(result.shape, generator=generator) for result in function()]

    def work() -> tuple[Results, Results]:
        results = function()
        return results, torch.autograd.grad(results, parameters, given)

    return work


def optimizers(prompts: int) -> Iterator[Pair]:
    """AdamW and clipping over stacked parameters, against a group and a clipping for each member."""
    tables = {"decoder prefix of 20": [(LAYERS, HEADS, PREFIX, WIDTH)] * 2, "prompt of 100": [(PROMPT, D)]}
    for name, shapes in tables.items():
        start, gradients = ([torch.randn(prompts, *shape) for shape in shapes] for _ in range(2))
        yield f"AdamW and clipping, {name}", stacked_adamw(start, gradients), grouped_adamw(start, gradients)


def stacked_adamw(start: Results, gradients: Results) -> Work:
    parameters = {str(place): item.clone().requires_grad_() for place, item in enumerate(start)}
    optimizer, rates = AdamW(parameters, weight_decay=0.01), torch.full((len(start[0]),), 1e-3)

    def work() -> tuple[Results, Results]:
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        clip_gradients(parameters, 1.0)
        optimizer.step(rates)
        return list(parameters.values()), []

    return work


def grouped_adamw(start: Results, gradients: Results) -> Work:
    stacked = [item.clone() for item in start]
    members = [[item[member].requires_grad_() for item in stacked] for member in range(len(start[0]))]  # views
    optimizer = torch.optim.AdamW([{"params": own, "lr": 1e-3} for own in members], weight_decay=0.01, foreach=True)

    def work() -> tuple[Results, Results]:
        copies = [gradient.clone() for gradient in gradients]
        for member, own in enumerate(members):
            for parameter, gradient in zip(own, copies, strict=True):
                parameter.grad = gradient[member]
            torch.nn.utils.clip_grad_norm_(own, 1.0, foreach=True)
        optimizer.step()
        return stacked, []

    return work


def mlps(prompts: int) -> Iterator[Pair]:
    """One batched reparametrising MLP, against a module for each member, their results stacked."""
    shape = (prompts, LAYERS, HEADS, PREFIX, WIDTH)
    start = {"decoder.keys": torch.randn(shape), "decoder.values": torch.randn(shape)}
    module = ReparametrizedPrefixes(start, D, 512, range(prompts))
    weights = {name.removeprefix("decoder_"): item.detach() for name, item in module.layers.items()}
    embeddings = [item.clone().requires_grad_() for item in weights["embeddings"]]
    sizes = (D, 512, 2 * LAYERS * HEADS * WIDTH)
    members = [nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:])) for _ in embeddings]
    for index, member in enumerate(members):
        for layer, name in ((member[0], "up"), (member[2], "down")):
            layer.weight.data, layer.bias.data = weights[name][index].T.clone(), weights[f"{name}_bias"][index].clone()
    both = torch.stack(list(start.values()), dim=2).permute(0, 4, 1, 2, 3, 5).contiguous()  # [P, n, L, 2, H, d_kv]

    def separate() -> Results:
        made = torch.stack([member(own) for member, own in zip(members, embeddings, strict=True)])
        return (both + made.view_as(both)).permute(3, 0, 2, 4, 1, 5).unbind()

    ours = there_and_back(lambda: list(module().tensors.values()), list(module.parameters()))
    parameters = [parameter for member in members for parameter in member.parameters()]
    yield "MLP of 512, decoder prefix of 20", ours, there_and_back(separate, embeddings + parameters)


def lengths_of(share: float) -> list[int]:
    """Of the texts of one of an epoch's batches: so far along, from the shortest to the longest."""
    lengths = [len(row) for row in rows(10_240)]
    batches = batching.epoch(lengths, 0, 0, BATCH)
    every = sorted(([lengths[index] for index in batch] for batch in batches), key=max)
    return every[int(share * len(every))]


def kinds(prefix: Results, own: Keys) -> list[Keys]:
    return [SideBySide(*prefix), own] if prefix else [own]


def attentions(prompts: int) -> Iterator[Pair]:
    """Decoder and encoder, with a prefix or behind a prompt."""
    size, few = BATCH * prompts, len(TARGET)
    prefix = [trained(prompts, HEADS, PREFIX, WIDTH) for _ in range(2)]
    causal = pad(torch.full((few, few), LOWEST).triu(1), (PREFIX, 0))
    bias = causal + torch.randn(1, HEADS, few, PREFIX + few)
    own = [trained(size, HEADS, few, WIDTH) for _ in range(3)]
    yield self_attention("decoder's attention, prefix of 20", own, prefix, bias)
    for share in (0.5, 0.95):
        lengths = torch.tensor(lengths_of(share) * prompts)
        many = int(lengths.max())
        mask = torch.where(torch.arange(many) < lengths[:, None], 0.0, LOWEST)[:, None, None]  # [B, 1, 1, m]
        query, states = trained(size, HEADS, few, WIDTH), torch.randn(size, many, D)
        yield cross_attention(f"cross-attention to {many}", query, states, [], mask)
        yield cross_attention(f"cross-attention to {many}, prefix of 20", query, states, prefix, pad(mask, (PREFIX, 0)))
    long, seen = PROMPT + many, pad(mask, (PROMPT, 0))
    bias = torch.randn(1, HEADS, long, long) + seen
    own = [trained(size, HEADS, long, WIDTH) for _ in range(3)]
    yield self_attention(f"encoder's attention of {long}, prompt of 100", own, [], bias)
    yield cross_attention(f"cross-attention to {long}, prompt of 100", query, trained(size, long, D), [], seen)


def fused(query: Tensor, key: Tensor, value: Tensor, prefix: Results, bias: Tensor) -> Results:
    """torch's own, with the prefix expanded for its rows and put before the other keys."""
    if prefix:
        keys, values = (of_rows(item, None, len(query)) for item in prefix)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    return [functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)]


def self_attention(what: str, own: Results, prefix: Results, bias: Tensor) -> Pair:
    query, key, value = own
    parameters = [*own, *prefix]
    ours = lambda: [products.attention(query * WIDTH**-0.5, kinds(prefix, SideBySide(key, value)), bias)]  # noqa: E731
    torchs = there_and_back(lambda: fused(query, key, value, prefix, bias), parameters)
    return what, there_and_back(ours, parameters), torchs


def cross_attention(what: str, query: Tensor, states: Tensor, prefix: Results, bias: Tensor) -> Pair:
    weights = [torch.randn(HEADS * WIDTH, D) * D**-0.5 for _ in range(2)]
    parameters = [query, *prefix, *([states] if states.requires_grad else [])]

    def projected() -> Results:
        key, value = (functional.linear(states, item).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for item in weights)
        return fused(query, key, value, prefix, bias)

    ours = lambda: [products.attention(query * WIDTH**-0.5, kinds(prefix, Projected(states, *weights)), bias)]  # noqa: E731
    return what, there_and_back(ours, parameters), there_and_back(projected, parameters)


def frozen(inside: int, outside: int) -> FrozenLinear:
    layer = FrozenLinear(inside, outside, bias=False).requires_grad_(False)
    layer.packs = True
    return layer


def projections(prompts: int) -> Iterator[Pair]:
    """Of what a decoder answers, with packed weights."""
    hidden = {inside: trained(BATCH * len(TARGET) * prompts, inside) for inside in (D, SMALL["d_ff"])}
    for inside, outside in ((D, D), (D, SMALL["d_ff"]), (SMALL["d_ff"], D)):
        layer, given = frozen(inside, outside), hidden[inside]
        sides = (partial(layer, given), partial(functional.linear, given, layer.weight))
        ours, torchs = (there_and_back(lambda side=side: [side()], [given]) for side in sides)  # type: ignore[misc]
        yield f"projection {inside} to {outside}, {len(given)} rows", ours, torchs


def losses(prompts: int) -> Iterator[Pair]:
    """Cross-entropy without logits that are held, against torch's on all logits."""
    count, vocabulary = BATCH * len(TARGET) * prompts, SMALL["vocab_size"]
    head, hidden, labels = frozen(D, vocabulary), trained(count, D), torch.randint(vocabulary, (count,))
    ours = there_and_back(lambda: [cross_entropy(hidden, head, labels)], [hidden])
    whole = lambda: functional.cross_entropy(functional.linear(hidden, head.weight), labels, reduction="none")  # noqa: E731
    yield f"cross-entropy over {vocabulary:,}, {count} positions", ours, there_and_back(lambda: [whole()], [hidden])


PARTS = {part.__name__: part for part in (optimizers, mlps, attentions, projections, losses)}


NEAR = {torch.float32: (1e-3, 1e-4), torch.bfloat16: (5e-2, 5e-2)}
"""How far the sides' results may be apart: of their size, and beside it."""


def measure(pair: Pair, prompts: int, runs: int) -> dict[str, Any]:
    """A line of the table: both sides in turn. Ends the program where they differ."""
    what, *sides = pair
    made = [side() for side in sides]
    # of all gradients together, however they are cut
    relative, absolute = NEAR[torch.get_default_dtype()]
    norms = [sum(item.double().square().sum().item() for item in gradients) for _, gradients in made]
    ours, theirs = ([item.float() for item in results] for results, _ in made)
    alike = map(partial(torch.allclose, rtol=relative, atol=absolute), ours, theirs)
    if not all(alike) or not isclose(*norms, rel_tol=2 * relative):
        raise SystemExit(f"{what}, {prompts} prompt(s): the sides differ")
    times = 1 + int(RUN_SECONDS / max(seconds(side) for side in sides))
    found = [[seconds(lambda: [side() for _ in range(times)]) / times for side in sides] for _ in range(runs)]  # noqa: B023
    own, peer = (median(column) for column in zip(*found, strict=True))
    ratio = median(theirs / own for own, theirs in found)
    return {"what": what, "prompts": prompts, "ours_seconds": own, "torch_seconds": peer, "ratio": ratio}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Batched and frozen mathematics beside torch's own")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="a JSON file of all numbers")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, options.dtype))
    made = ((pair, prompts) for name in options.only for prompts in POPULATIONS for pair in PARTS[name](prompts))
    measures = [measure(pair, prompts, options.runs) for pair, prompts in made]
    table = Table(title=f"T5-small's sizes, {options.dtype}; {hardware()}")
    for place, head in enumerate(("what", "prompts", "ours, ms", "torch, ms", "times faster")):
        table.add_column(head, justify="right" if place else "left")
    for what, prompts, own, peer, ratio in (item.values() for item in measures):
        table.add_row(what, str(prompts), f"{1000 * own:.3f}", f"{1000 * peer:.3f}", f"{ratio:.2f}")
    show(table)
    if options.out:
        about = {"machine": hardware(), "versions": installed_versions(), "runs": options.runs, "dtype": options.dtype}
        options.out.write_text(json.dumps(about | {"measures": measures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

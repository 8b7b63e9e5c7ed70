"""How a prompt begins. Pure functions of a backbone, some words and a seed.

An initialisation gives n input embeddings; a prefix turns them into the keys and values that the frozen model itself
computes for such inputs (Li & Liang 2021, section 7.4: real activations beat random ones, by far with little data).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from preface.backbones.t5 import Backbone, EncoderStates, Shape
from preface.errors import UserError
from preface.prompts import Injection, Site
from preface.records.card import load_prompt

COMMON = 5_000
"""Lester et al. 2021, section 3.2: sample among the 5,000 commonest pieces."""
RANDOM_RANGE = 0.5
"""Lester et al. 2021, section 3.2: uniform in ±0.5."""

Kind = Literal["random", "vocabulary", "labels", "activations", "text", "prompt"]
KINDS: tuple[str, ...] = ("random", "vocabulary", "labels", "activations", "text:…", "prompt:PATH")


@dataclass(frozen=True)
class Initializer:
    """Where prompts begin: what `--init` says, with the words and examples of the task at hand."""

    kind: Kind
    argument: str = ""
    label_words: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Training examples: input and target."""

    @classmethod
    def parse(cls, text: str, label_words: Sequence[str] = (), examples: Sequence[tuple[str, str]] = ()) -> Initializer:
        """From `random`, `vocabulary`, `labels`, `activations`, `text:some words` or `prompt:PATH`."""
        kind, _, argument = text.partition(":")
        takes_argument = kind in ("text", "prompt")
        if kind not in ("random", "vocabulary", "labels", "activations", "text", "prompt") or (
            takes_argument != bool(argument)
        ):
            raise UserError(f"init {text}: one of {', '.join(KINDS)}")
        if kind == "labels" and not label_words:
            raise UserError("init labels: the task has no label words; try vocabulary")
        if kind == "activations" and not examples:
            raise UserError("init activations: there are no training examples; try vocabulary or text:…")
        return cls(kind, argument, tuple(label_words), tuple(examples))  # type: ignore[arg-type]

    def saved(self) -> Injection:
        """The prompt that `prompt:PATH` names, an injection of one prompt."""
        return load_prompt(Path(self.argument)).injection

    def embeddings(self, backbone: Backbone, length: int, seed: int) -> Tensor:
        """n input embeddings `[n, d_model]`, float32."""
        table = backbone.model.shared.weight
        match self.kind:
            case "random":
                return uniform((length, table.shape[1]), seed)
            case "labels":
                return label_embeddings(backbone, self.label_words, length, seed)
            case "text":
                ids = torch.tensor(text_ids(backbone, self.argument, length))
                return table[ids.to(table.device)].float().cpu()
            case "vocabulary":
                return vocabulary_embeddings(backbone, length, seed)
            case "prompt":
                embeddings = self.saved().embeddings
                if embeddings is None or embeddings.shape[1:] != (length, table.shape[1]):
                    raise UserError(
                        f"init prompt:{self.argument}: not {length} input embeddings of {table.shape[1]} numbers; "
                        "give the length and the method of the saved prompt"
                    )
                return embeddings[0].float()
            case _:
                raise UserError("init activations: for prefix tuning only; prompt tuning takes labels or vocabulary")


def uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    """Uniform in ±0.5."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) * 2 - 1) * RANDOM_RANGE


def common_pieces(backbone: Backbone) -> list[int]:
    """The ids of the 5,000 commonest pieces; specials, sentinels and control pieces do not count.

    T5's vocabularies are ordered by frequency after their special and byte pieces.
    """
    tokenizer = backbone.tokenizer
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    size = min(len(tokenizer), backbone.shape.vocabulary)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    ordinary = (
        index
        for index, piece in enumerate(pieces)
        if index not in special and not (piece.startswith("<") and piece.endswith(">"))
    )
    return [index for index, _ in zip(ordinary, range(COMMON), strict=False)]


def vocabulary_embeddings(backbone: Backbone, length: int, seed: int) -> Tensor:
    """Embeddings of `length` common pieces, sampled without replacement, `[n, d_model]`."""
    pieces = common_pieces(backbone)
    if length > len(pieces):
        raise UserError(f"init vocabulary: {length} tokens asked for, {len(pieces)} pieces to choose from")
    ids = torch.tensor(random.Random(seed).sample(pieces, length))
    return backbone.model.shared.weight[ids.to(backbone.device)].float().cpu()


def label_embeddings(backbone: Backbone, words: Sequence[str], length: int, seed: int) -> Tensor:
    """Label words first, the pieces of each averaged; the remainder from the vocabulary (Lester et al. 2021, 3.2)."""
    table = backbone.model.shared.weight
    averaged = [
        table[torch.tensor(text_ids(backbone, word), device=table.device)].float().mean(0).cpu() for word in words
    ]
    labels = torch.stack(averaged[:length])  # [min(n, labels), d]
    if length == len(labels):
        return labels
    return torch.cat([labels, vocabulary_embeddings(backbone, length - len(labels), seed)])


def text_ids(backbone: Backbone, text: str, length: int | None = None) -> list[int]:
    """The pieces of a text without `</s>`; repeated or cut to `length` if one is given."""
    ids: list[int] = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"init: the text {text!r} has no pieces")
    if length is None:
        return ids
    return (ids * (length // len(ids) + 1))[:length]


@torch.no_grad()
def key_values(
    backbone: Backbone, sites: Sequence[Site], init: Initializer, length: int, seed: int
) -> dict[str, Tensor]:
    """Where a prefix begins: for each site `"site.keys"` and `"site.values"`, `[L, H, n, d_kv]`, float32."""
    shape = backbone.shape
    if init.kind == "random":
        sizes = {site: (shape.layers(site), shape.heads, length, shape.d_kv) for site in sites}
        return {
            f"{site}.{part}": uniform(sizes[site], hash_seed(seed, site, part))
            for site in sites
            for part in ("keys", "values")
        }
    if init.kind == "prompt":
        return _saved_key_values(init, sites, shape, length)
    if init.kind == "activations":
        return _example_activations(backbone, sites, init.examples, length, seed)
    embeddings = init.embeddings(backbone, length, seed).to(backbone.device, backbone.dtype)[None]  # [1, n, d]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=backbone.device)
    everywhere = torch.stack([torch.zeros(length, dtype=torch.long), torch.arange(length)], dim=1)  # [n, 2]
    with _Recorder(backbone, dict.fromkeys(sites, everywhere)) as recorder:
        hidden = backbone.model.encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        backbone.model.decoder(
            inputs_embeds=embeddings,
            encoder_hidden_states=hidden,
            encoder_attention_mask=mask,
            use_cache=False,
        )
    return recorder.key_values(hidden)


def hash_seed(seed: int, *names: str) -> int:
    """A seed of its own for each named part, the same on every machine."""
    return random.Random(f"{seed}/{'/'.join(names)}").getrandbits(63)


def _saved_key_values(init: Initializer, sites: Sequence[Site], shape: Shape, length: int) -> dict[str, Tensor]:
    saved, start = init.saved(), {}
    for site in sites:
        kv = saved.site(site)
        if (
            kv is None
            or len(kv.keys) != shape.layers(site)
            or kv.keys[0].shape[1:] != (shape.heads, length, shape.d_kv)
        ):
            raise UserError(
                f"init prompt:{init.argument}: has no {length} keys for the {site} site of this backbone; "
                "give the length and the sites of the saved prompt"
            )
        start[f"{site}.keys"] = torch.stack([layer[0] for layer in kv.keys]).float()
        start[f"{site}.values"] = torch.stack([layer[0] for layer in kv.values]).float()
    return start


def _example_activations(
    backbone: Backbone, sites: Sequence[Site], examples: Sequence[tuple[str, str]], length: int, seed: int
) -> dict[str, Tensor]:
    """Keys and values at `length` random places of some training examples, the same place at every layer."""
    order = random.Random(seed)
    # a decoder input has few tokens, so draw as many examples as there are virtual tokens
    drawn = order.sample(list(examples), min(length, len(examples)))
    texts, _ = backbone.tokenize([text for text, _ in drawn], max_tokens=128)
    targets, _ = backbone.tokenize([target for _, target in drawn], max_tokens=32)
    input_ids, mask = backbone.pad(texts)
    labels, label_mask = backbone.pad(targets)
    places = {}
    for site in sites:
        tokens = (label_mask if site == "decoder" else mask).bool().cpu().nonzero()  # [tokens, 2]
        picks = [order.randrange(len(tokens)) for _ in range(max(0, length - len(tokens)))]
        picks += order.sample(range(len(tokens)), min(length, len(tokens)))
        places[site] = tokens[torch.tensor(picks)]  # [n, 2]
    with _Recorder(backbone, places) as recorder:
        states: EncoderStates = backbone.encode(input_ids, mask)
        backbone.decoder_states(states, backbone.shift_right(labels))
    return recorder.key_values(states.hidden)


class _Recorder:
    """Records, while it is entered, what every layer makes keys and values of at n places `[n, 2]` (row, token)."""

    def __init__(self, backbone: Backbone, places: Mapping[Site, Tensor]) -> None:
        self.shape, self.places = backbone.shape, places
        model = backbone.model
        self.modules: dict[Site, list[Any]] = {
            "encoder": [block.layer[0].SelfAttention for block in model.encoder.block],
            "decoder": [block.layer[0].SelfAttention for block in model.decoder.block],
            "cross": [block.layer[1].EncDecAttention for block in model.decoder.block],
        }
        self.inputs: dict[Site, list[Tensor]] = {site: [] for site in places}

    def __enter__(self) -> _Recorder:
        def record(site: Site) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                self.inputs[site].append(self._at(site, args[0]))

            return hook

        self.hooks = [
            module.k.register_forward_pre_hook(record(site))
            for site in self.places
            if site != "cross"  # there every layer reads the encoder's output
            for module in self.modules[site]
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _at(self, site: Site, hidden: Tensor) -> Tensor:
        """`[B, T, d]` to `[n, d]`."""
        places = self.places[site].to(hidden.device)
        return hidden[places[:, 0], places[:, 1]]

    def key_values(self, encoded: Tensor) -> dict[str, Tensor]:
        """`"site.keys"` and `"site.values"`, `[L, H, n, d_kv]`, float32; `encoded` is the encoder's output."""
        made = {}
        for site in self.places:
            modules = self.modules[site]
            inputs = [self._at(site, encoded)] * len(modules) if site == "cross" else self.inputs[site]
            for part in ("keys", "values"):
                projected = [
                    (module.k if part == "keys" else module.v)(item)
                    for module, item in zip(modules, inputs, strict=True)
                ]
                stacked = torch.stack(projected).float().cpu()  # [L, n, H * d_kv]
                by_head = stacked.unflatten(-1, (self.shape.heads, self.shape.d_kv))  # [L, n, H, d_kv]
                made[f"{site}.{part}"] = by_head.transpose(1, 2).contiguous()
        return made

"""How a prompt begins. Pure functions of a backbone, some words and a seed.

An initialisation gives n input embeddings; a prefix turns them into the keys and values that the frozen model itself
computes for such inputs (Li & Liang 2021, section 7.4: real activations beat random ones, by far with little data).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.prompts import Prompts
from preface.records.card import load_prompt
from preface.tasks.task import CUE

COMMON = 5_000
"""Lester et al. 2021, section 3.2: sample among the 5,000 commonest pieces."""
RANDOM_RANGE = 0.5
"""Lester et al. 2021, section 3.2: uniform in ±0.5."""

Kind = Literal["random", "vocabulary", "labels", "activations", "text", "prompt"]
ARGUMENTS = {"text": "WORDS", "prompt": "FOLDER"}
"""What follows the colon, where an initialisation has one."""
NAMES = tuple(f"{kind}:{ARGUMENTS[kind]}" if kind in ARGUMENTS else kind for kind in get_args(Kind))
"""As a user writes them."""


@dataclass(frozen=True)
class Initializer:
    """Where prompts begin: what `--init` says, with the words and examples of the task at hand."""

    kind: Kind
    argument: str = ""
    label_words: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Training examples: input and target."""
    cue: str = CUE
    """What stands before an answer."""

    @classmethod
    def parse(
        cls,
        text: str,
        label_words: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        cue: str = CUE,
    ) -> Initializer:
        """From one of `NAMES`, such as `labels` or `text:some words`. Raises UserError."""
        kind, _, argument = text.partition(":")
        if kind not in get_args(Kind) or (kind in ARGUMENTS) != bool(argument):
            raise UserError(f"init {text}: one of {', '.join(NAMES)}")
        if kind == "activations" and not examples:
            raise UserError("init activations: there are no training examples; try vocabulary or text:…")
        return cls(kind, argument, tuple(label_words), tuple(examples), cue)  # type: ignore[arg-type]

    def saved(self) -> Prompts:
        """The prompt that `prompt:FOLDER` names. Raises UserError for an ensemble."""
        saved = load_prompt(Path(self.argument))
        if saved.card.ensemble is not None:
            raise UserError(f"init prompt:{self.argument}: is an ensemble; give one of the prompts it is made of")
        return saved.prompts

    def embeddings(self, backbone: Backbone, length: int, seed: int) -> Tensor:
        """n input embeddings `[n, d_model]`, float32."""
        table = backbone.embeddings
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
                saved = self.saved()
                embeddings = saved.after if saved.embeddings is None else saved.embeddings
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


def vocabulary_embeddings(backbone: Backbone, length: int, seed: int) -> Tensor:
    """Embeddings of `length` common pieces, sampled without replacement, `[n, d_model]`."""
    pieces = backbone.common_pieces(COMMON)
    if length > len(pieces):
        raise UserError(f"init vocabulary: {length} tokens needed, {len(pieces)} pieces to choose from")
    ids = torch.tensor(random.Random(seed).sample(pieces, length))
    return backbone.embeddings[ids.to(backbone.device)].float().cpu()


def label_embeddings(backbone: Backbone, words: Sequence[str], length: int, seed: int) -> Tensor:
    """Label words first, the pieces of each averaged; the remainder from the vocabulary (Lester et al. 2021, 3.2). Of a
    task with free text, which has none, all are from the vocabulary."""
    table = backbone.embeddings
    averaged = [
        table[torch.tensor(text_ids(backbone, word), device=table.device)].float().mean(0).cpu() for word in words
    ]
    if length > len(averaged):
        averaged += vocabulary_embeddings(backbone, length - len(averaged), seed)
    return torch.stack(averaged[:length])


def text_ids(backbone: Backbone, text: str, length: int | None = None) -> list[int]:
    """The pieces of a text without `</s>`; repeated or cut to `length` if one is given."""
    ids: list[int] = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"init: the text {text!r} has no pieces")
    if length is None:
        return ids
    return (ids * (length // len(ids) + 1))[:length]


def key_values(
    backbone: Backbone, sites: Sequence[str], init: Initializer, length: int, seed: int
) -> dict[str, Tensor]:
    """Where a prefix begins: for each site `SITE.keys` and `SITE.values`, `[L, H, n, d_head]`, float32."""
    match init.kind:
        case "random":
            return {
                f"{site}.{part}": uniform(_shape(backbone, site, length), hash_seed(seed, site, part))
                for site in sites
                for part in ("keys", "values")
            }
        case "prompt":
            return _saved_key_values(backbone, init, sites, length)
        case "activations":
            return _example_activations(backbone, sites, init, length, seed)
        case _:
            return key_values_of(backbone, sites, init.embeddings(backbone, length, seed))


def key_values_of(backbone: Backbone, sites: Sequence[str], embeddings: Tensor) -> dict[str, Tensor]:
    """What the frozen model makes of input embeddings `[n, d]`: for each site `SITE.keys` and `SITE.values`,
    `[L, H, n, d_head]`, float32."""
    length = len(embeddings)
    read = embeddings.to(backbone.device, backbone.dtype)[None]
    mask = torch.ones(read.shape[:2], dtype=torch.long, device=backbone.device)
    everywhere = torch.stack([torch.zeros(length, dtype=torch.long), torch.arange(length)], dim=1)  # [n, 2]
    return backbone.key_values(dict.fromkeys(sites, everywhere), read, mask, read)


def _shape(backbone: Backbone, site: str, length: int) -> tuple[int, int, int, int]:
    """`[L, H, n, d_head]` of a site."""
    sizes = backbone.sites[site]
    return sizes.layers, sizes.heads, length, sizes.width


def hash_seed(seed: int, *names: str) -> int:
    """A seed of its own for each named part, the same on every machine."""
    return random.Random(f"{seed}/{'/'.join(names)}").getrandbits(63)


def _saved_key_values(backbone: Backbone, init: Initializer, sites: Sequence[str], length: int) -> dict[str, Tensor]:
    saved, start = init.saved(), {}
    for site in sites:
        for name in (f"{site}.keys", f"{site}.values"):
            if name not in saved.tensors or saved.tensors[name].shape[1:] != _shape(backbone, site, length):
                raise UserError(
                    f"init prompt:{init.argument}: has no {length} keys for the {site} site of this backbone; "
                    "give the length and the sites of the saved prompt"
                )
            start[name] = saved.tensors[name][0].float()
    return start


def _example_activations(
    backbone: Backbone, sites: Sequence[str], init: Initializer, length: int, seed: int
) -> dict[str, Tensor]:
    """Keys and values at `length` random places of some training examples, the same place at every layer."""
    order = random.Random(seed)
    # a decoder input has few tokens, so draw as many examples as there are virtual tokens
    drawn = order.sample(init.examples, min(length, len(init.examples)))
    texts, _ = backbone.tokenize([text for text, _ in drawn], max_tokens=128)
    targets = backbone.answer_pieces([target for _, target in drawn], init.cue)
    input_ids, mask = backbone.pad(texts)
    lead_in = backbone.lead_in(init.cue)
    # an answer's last piece is followed by nothing, so it is never read
    answer_ids, answer_mask = backbone.pad([[*lead_in, *pieces[:-1]] for pieces in targets])
    places = {}
    for site in sites:
        tokens = (mask if backbone.sites[site].of == "text" else answer_mask).bool().cpu().nonzero()  # [tokens, 2]
        picks = [order.randrange(len(tokens)) for _ in range(max(0, length - len(tokens)))]
        picks += order.sample(range(len(tokens)), min(length, len(tokens)))
        places[site] = tokens[torch.tensor(picks)]  # [n, 2]
    return backbone.key_values(places, backbone.embed(input_ids), mask, backbone.embed(answer_ids))

"""What a backbone is: a frozen model that reads a text, and answers under any soft prompt.

Reading makes a `Context`; answering goes on from one. Losses, the probabilities of label words and free generation
stand on these two, so a model family is one file that says how it reads and how it answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preface.backbones.batching import padded
from preface.backbones.frozen import FrozenLinear, cross_entropy, log_total, make_frozen, weights_of
from preface.backbones.pieces import Pieces
from preface.backbones.tree import Trees
from preface.errors import UserError
from preface.prompts import Prompts, of_rows

if TYPE_CHECKING:
    from preface.backbones.writing import Writing

SEEN = "preface_seen_tasks"
"""Where a model's configuration lists the tasks whose labelled examples it was trained on, as far as Preface knows."""
KEEP_CONTEXTS = 20 * 2**30
"""Bytes that what was read of one set of texts may take, in memory or on disk, unless PREFACE_KEEP_CONTEXTS says how
many."""


@dataclass(frozen=True)
class Site:
    """An attention site: where a prefix can go, and its sizes."""

    layers: int
    heads: int
    """Of keys and values."""
    width: int
    """Numbers of a key or a value."""
    of: Literal["text", "answer"]
    """Which tokens its own keys and values are made of."""


@dataclass(frozen=True)
class Context:
    """What a backbone knows of the texts of a batch once it has read them."""

    states: Tensor
    """`[B, m, w]`: w numbers a token (`Backbone.state_width`)."""
    mask: Tensor
    """`[B, m]`, 1 where a token is real."""

    def repeated(self, times: int) -> Context:
        """The same contexts several times over: context i stands at i, i + N, … too."""
        if times == 1:
            return self
        return Context(self.states.repeat(times, 1, 1), self.mask.repeat(times, 1))


Layers = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Keys and values of each layer."""


class Backbone(Pieces):
    """A frozen model and its tokenizer. Its weights get no gradient and never change."""

    attention: ClassVar[str]
    """The attention implementation of Transformers that reads prompts."""
    answer_site: ClassVar[str]
    """The site whose prefixes the answer's own pieces alone see, so that reading is left alone."""
    carriers: ClassVar[tuple[str, ...]] = ("embeddings",)
    """Where input embeddings of a prompt may stand: before a text (`embeddings`), or after it (`after`)."""
    position_bias: ClassVar[bool] = False
    """Whether keys get a bias by their distance, which a prefix may do without (`SITE.relative`)."""

    # sizes and parts of its model, which each family sets

    sites: Mapping[str, Site]
    """Where prefixes can go."""
    sizes: dict[str, int]
    """All sizes that a soft prompt must fit, as its card has them."""
    state_width: int
    """w, the numbers that a context has a token."""
    layers: int
    """L, those that input embeddings go through."""
    hidden_width: int
    """The numbers of a state between two layers: d, but in models that project their embeddings."""
    default_sites: tuple[str, ...]
    """Where a prefix goes if its configuration does not say."""
    parameters: int
    """The number of the model's own parameters, all frozen."""
    quantized: str | None = None
    """How its weights are held, where not as they came (`quantized`)."""

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
    ) -> None:
        """
        Args:
            name: as it is named in records, or a path.
            model: its weights are frozen, and its attention is replaced by the one that reads prompts.
            revision: the commit on the hub that it came from.
        """
        super().__init__(name, model.config, tokenizer)
        self.revision = revision
        self.model: Any = model.eval().requires_grad_(False)  # its submodules are its family's, which no type says
        if model.config._attn_implementation != self.attention:
            model.set_attn_implementation(self.attention)
        self.keep_contexts = size_in_bytes(os.environ.get("PREFACE_KEEP_CONTEXTS") or str(KEEP_CONTEXTS))
        self.kept: dict[str, Any] = {}  # contexts, by the texts they are of (`contexts`)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        make_frozen(model, self.head)

    def __sklearn_clone__(self) -> Backbone:
        """scikit-learn copies the parameters of an estimator; a frozen model is the same for all, with what it read."""
        return self

    # what a family says

    @property
    @abstractmethod
    def embeddings(self) -> Tensor:
        """The table of input embeddings, `[vocabulary, d]`, wherever the model is now."""

    @property
    @abstractmethod
    def head(self) -> FrozenLinear:
        """The projection onto the vocabulary, which reads what `answer` gives."""

    @abstractmethod
    def read(
        self, input_ids: Tensor, mask: Tensor, prompts: Prompts | None = None, rows: Tensor | None = None
    ) -> Context:
        """Read texts.

        Args:
            input_ids, mask: `[B, T]`.
            prompts, rows: the prompt of each row (`Prompts.at`).
        """

    def read_in_parts(self, ids: Sequence[int], part: int, prompts: Prompts | None = None) -> Iterator[Context | None]:
        """Read one text, so many tokens at a time where the model can, under one prompt: None while there is more to
        read, and then the context that `read` makes."""
        yield self.read(*self.pad([ids]), prompts)

    @abstractmethod
    def last_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """What the bare model's last layer makes of texts `[B, T]`: `[B, T, d]`."""

    @abstractmethod
    def answer(
        self,
        context: Context,
        input_ids: Tensor,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Go on from what was read.

        Args:
            context: of N texts; row b goes on from text b % N.
            input_ids: `[B, S]`.
            prompts, rows: the prompt of each row.
            mask: `[B, 1, S, S]`, which inputs each may see; None: those before it.
            positions: of each input, `[S]` or `[B, S]`; None: one after the other.

        Returns:
            What the projection onto the vocabulary reads after each input, `[B, S, d]`.
        """

    @abstractmethod
    def write(
        self, writing: Writing, embedded: Tensor, real: Tensor, prompts: Prompts | None, rows: Tensor | None
    ) -> tuple[Writing, Tensor]:
        """Go on with answers that are being written (`writing.begin` and `go_on` call it).

        Args:
            writing: what is there.
            embedded: what comes after it, `[B, q, d]`.
            real: which of that is no padding, `[B, q]`.
            prompts, rows: the prompt of each row.

        Returns:
            The whole, and what the projection onto the vocabulary reads after the last place, `[B, d]`.
        """

    @abstractmethod
    def key_values(self, places: Mapping[str, Tensor], text: Tensor, mask: Tensor, answer: Tensor) -> dict[str, Tensor]:
        """The keys and values that the model itself makes at some places.

        Args:
            places: for each site `[n, 2]`: row and token, of the text or of the answer (`Site.of`).
            text, mask: what is read, embedded `[B, T, d]`, and `[B, T]`.
            answer: what the answer reads, embedded `[B, S, d]`.

        Returns:
            `SITE.keys` and `SITE.values`, `[L, H, n, d_head]`, float32.
        """

    @abstractmethod
    def generate(
        self,
        context: Context,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        *,
        lead_in: Sequence[int],
        **options: Any,
    ) -> Tensor:
        """Generated tokens `[B, S]` after what was read and the pieces of `lead_in`; `options` are Transformers' own
        (`num_beams`, …). There are as many as texts; with `rows` `[B]`, row b goes on from text b % N."""

    @abstractmethod
    def common_pieces(self, count: int) -> list[int]:
        """The ids of the commonest ordinary pieces, at most `count`."""

    # what follows

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def width(self) -> int:
        """d, the numbers of an input embedding."""
        return self.embeddings.shape[1]

    @property
    def seen_tasks(self) -> tuple[str, ...]:
        """Tasks whose labelled examples its training saw: none of them is a new domain for it. Empty if not known."""
        return tuple(getattr(self.model.config, SEEN, ()))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, as bfloat16, so that a checkpoint loaded in either precision has one name."""
        return weights_hash(self, torch.bfloat16)

    @cached_property
    def exact_fingerprint(self) -> str:
        """SHA-256 of all that decides what the model computes: weights as they are, and the whole configuration."""
        config = {name: value for name, value in self.model.config.to_dict().items() if name != "_name_or_path"}
        text = json.dumps(config, sort_keys=True, default=str)
        return hashlib.sha256((weights_hash(self, self.dtype) + text).encode()).hexdigest()

    def embed(self, ids: Tensor) -> Tensor:
        """`[...]` to `[..., d]`."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def logits(
        self, context: Context, input_ids: Tensor, prompts: Prompts | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Of the piece after each input `[B, S]`: `[B, S, vocabulary]`, float32; under prompts with label vectors of
        these, `[B, S, C]`."""
        hidden = self.answer(context, input_ids, prompts, rows)
        if (scores := label_logits(hidden, prompts, rows)) is not None:
            return scores
        return self.head.logits(hidden)

    def losses(
        self,
        context: Context,
        input_ids: Tensor,
        labels: Tensor,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        every_position: bool = False,
    ) -> Tensor:
        """−log of the probability of each label piece, 0 where there is none, float32.

        The loss of `logits`, without them; where prompts have label vectors, labels are their numbers. No position is
        projected that has no label, unless `every_position` is, which makes all shapes the same whatever labels are.

        Args:
            input_ids: what the answer reads, `[B, S]`.
            labels: the piece to come after each, −100 where none is learned, `[B, S]`. Best left on the CPU unless
                `every_position`: counting them there keeps no device waiting.
        """
        hidden = self.answer(context, self.send(input_ids), prompts, rows)  # [B, S, d]
        flat = labels.flatten()
        if (scores := label_logits(hidden, prompts, rows)) is not None:
            pieces = functional.cross_entropy(scores.flatten(0, 1), self.send(flat), reduction="none")
            return pieces.view_as(labels)
        hidden = hidden.flatten(0, 1)
        if every_position:
            flat = self.send(flat)
            pieces = cross_entropy(hidden, self.head, flat.clamp(min=0))
            return pieces.masked_fill(flat == -100, 0.0).view_as(labels)
        real = (flat != -100).nonzero().squeeze(1)  # [M]
        if len(real) < len(flat):
            places = self.send(real)
            pieces = cross_entropy(hidden[places], self.head, self.send(flat[real]))
            return pieces.new_zeros(len(flat)).index_add(0, places, pieces).view_as(labels)
        return cross_entropy(hidden, self.head, self.send(flat)).view_as(labels)

    def log_probabilities(
        self,
        context: Context,
        trees: Trees,
        which: Tensor,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        totals: bool = True,
    ) -> Tensor:
        """Log-probabilities `[B, C]` of the words of a tree, −inf where a row's tree has fewer than C.

        All words of a row lie in one answer, hidden from each other by a mask; each is scored as if it stood alone.
        Where prompts have label vectors, trees are the lead-in alone.

        Args:
            context: of N texts; row b is about text b % N.
            trees: V trees of words, on the model's device.
            which: the tree of each row, `[B]`.
            prompts, rows: the prompt of each row.
            totals: False: words that differ in their last piece alone are compared, and nothing else. What they have in
                common is left out, among it the sum over the vocabulary, which is most of the work.
        """
        size = len(which)
        trees = trees.of_rows(which)
        hidden = self.answer(context, trees.inputs, prompts, rows, trees.mask[:, None], trees.positions)  # [B, S, d]
        if (scores := label_logits(hidden[:, -1:], prompts, rows)) is not None:
            return scores.squeeze(1).log_softmax(-1)
        own = hidden.gather(1, trees.places[..., None].expand(-1, -1, hidden.shape[2]))  # [B, K, d]
        chosen = self.head.logits_of(own, trees.pieces)  # [B, K]
        if totals:
            every = log_total(hidden.flatten(0, 1), self.head).view(size, -1)  # [B, S]
            chosen = chosen - every.gather(1, trees.places)
        scores = chosen.new_zeros(size, trees.words + 1)  # the last column takes what is padding
        scores.scatter_add_(1, trees.owners, chosen)
        return scores[:, :-1].masked_fill(
            trees.counts[:, None] <= torch.arange(trees.words, device=self.device), -torch.inf
        )

    @contextmanager
    def training(self, dropout: float = 0.0, gradient_checkpointing: bool = False) -> Iterator[None]:
        """Training mode with a dropout rate (0: the same function as in evaluation), and back."""
        if not dropout and not gradient_checkpointing:
            yield  # a model without dropout knows no difference
            return
        set_dropout(self.model, dropout)
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            # Transformers makes the embeddings want a gradient, for the sake of the other kind of checkpointing
            self.model.disable_input_require_grads()
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()
            if gradient_checkpointing:
                self.model.activation_checkpointing_disable()

    def pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]`, padded on the right, on the model's device."""
        ids, mask = padded(sequences, self.model.config.pad_token_id or 0)  # masked, whatever it is
        return self.send(ids), self.send(mask)

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the model's device, without waiting for it."""
        return send(tensor, self.device)


def label_logits(hidden: Tensor, prompts: Prompts | None, rows: Tensor | None) -> Tensor | None:
    """How like each row's label vectors its states `[B, S, d]` are, `[B, S, C]`, float32; None: prompts have none."""
    if prompts is None or prompts.labels is None:
        return None
    vectors = of_rows(prompts.labels, rows, len(hidden))  # [B, C, d]
    return hidden.float() @ vectors.float().mT


def placed(prompts: Prompts, carrier: str, rows: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's embeddings `[B, n, d]`, and which of them are real `[B, n]`; `like` `[B, ...]` has their type."""
    size = len(like)
    embeddings = of_rows(prompts.tensors[carrier].to(like.dtype), rows, size)
    real = prompts.tensors.get(f"{carrier}.mask")
    if real is None:
        return embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool, device=like.device)
    return embeddings, of_rows(real, rows, size)


def size_in_bytes(size: str, option: str = "keep-contexts") -> int:
    """`4GB`, `500 MB`, `0`. Raises UserError, which names the option."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", size.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(f"{option} {size}: write a size such as 4GB, 500MB or 0")
    return int(float(match[1]) * 2 ** (10 * " KMGT".index(match[2].upper() or " ")))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU to a GPU without waiting for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def weights_hash(backbone: Backbone, dtype: torch.dtype) -> str:
    """SHA-256 of a model's sizes and of all its weights, in `dtype`."""
    digest = hashlib.sha256(repr(backbone.sizes).encode())
    for name, weight in weights_of(backbone.model):
        digest.update(name.encode())
        digest.update(weight.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def set_dropout(model: nn.Module, rate: float) -> None:
    """The rate of every dropout in the model while it trains."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate  # type: ignore[assignment]

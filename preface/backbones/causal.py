"""Decoder-only backbones: reading makes the keys and values of a text, answering goes on from them.

Positions. Where only distances count (rotary), a text that no prompt changes ends at −1 and its answer begins at 0, so
that keys of the `answer` site, which stand at −n … −1 too, are the same for texts of any length. Keys of the `input`
site stand at −n … −1 before a text that begins at 0. Positions of a table (GPT-2, OPT) begin at 0, or after the keys of
the `input` site, as with a cache in Transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from preface.backbones import causal_attention
from preface.backbones.added import Begun, add_before_layers
from preface.backbones.base import Backbone, Context, Layers, Site, placed
from preface.backbones.causal_attention import Call
from preface.backbones.families import FAMILIES, refusal
from preface.backbones.frozen import FrozenLinear
from preface.backbones.pieces import CausalPieces
from preface.backbones.rotary import turn_between
from preface.backbones.writing import Writing, seen_before
from preface.errors import UserError
from preface.prompts import Prompts, of_rows


class CausalBackbone(CausalPieces, Backbone):
    """A decoder-only model of one of the types in `families.FAMILIES`."""

    attention = causal_attention.NAME
    answer_site = "answer"
    carriers = ("embeddings", "after")

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
    ) -> None:
        """Raises UserError for a model that is not taken."""
        if reason := refusal(model.config):
            raise UserError(f"backbone {name}: {reason}")
        causal_attention.register()
        super().__init__(name, model, tokenizer, revision)
        self.family = FAMILIES[self.model.config.model_type]
        config = self.model.config
        self.position_limit = int(config.max_position_embeddings)
        self.layers, self.heads, self.head_width = self._probed()
        self.hidden_width = int(config.hidden_size)
        modules = self.model.get_decoder().modules()
        add_before_layers(next(item for item in modules if isinstance(item, nn.ModuleList)), _begun)
        site = (self.layers, self.heads, self.head_width)
        self.sites = {"input": Site(*site, of="text"), "answer": Site(*site, of="text")}
        self.default_sites = (self.answer_site,)
        self.sizes = {
            "d_model": self.width,
            "d_head": self.head_width,
            "heads": self.heads,
            "layers": self.layers,
            "vocabulary": len(self.embeddings),
        }
        self.state_width = 2 * self.layers * self.heads * self.head_width
        self.head.softcap = getattr(config, "final_logit_softcapping", None)

    def _probed(self) -> tuple[int, int, int]:
        """Layers, heads of keys and values, and the numbers of each, as the attention really has them."""
        made: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self._run(self.embed(one), Call(one, None, one, (), made=made))
        shapes = {tuple(item.shape[1::2]) for pair in made for item in pair}
        if len(shapes) != 1:
            raise UserError(f"backbone {self.name}: its layers have keys and values of different sizes")
        (heads, width) = shapes.pop()
        return len(made), heads, width

    @property
    def embeddings(self) -> Tensor:
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    @property
    def head(self) -> FrozenLinear:
        head: FrozenLinear = self.model.get_output_embeddings()
        return head

    def read(
        self, input_ids: Tensor, mask: Tensor, prompts: Prompts | None = None, rows: Tensor | None = None
    ) -> Context:
        """The keys and values of the text, and of the embeddings before it."""
        embedded, own = self.embed(input_ids), None
        if prompts is not None and prompts.embeddings is not None:
            before, seen = placed(prompts, "embeddings", rows, embedded)
            embedded, mask = torch.cat([before, embedded], dim=1), torch.cat([seen.to(mask.dtype), mask], dim=1)
            if "embeddings.mask" in prompts.tensors:  # what is padded on its left has to be hidden
                own, _ = seen_before(mask.bool(), mask.shape[1])
        positions = self._positions(mask, prompts, rows)
        made: list[tuple[Tensor, Tensor]] = []
        call = Call(positions, own, positions, ("input",), prompts, rows, begins_with="embeddings", made=made)
        self._run(embedded, call)
        return _context(made, mask)

    def read_in_parts(self, ids: Sequence[int], part: int, prompts: Prompts | None = None) -> Iterator[Context | None]:
        embedded = self.embed(torch.tensor([list(ids)], device=self.device))
        real = torch.ones(embedded.shape[:2], dtype=torch.bool, device=self.device)
        if prompts is not None and prompts.embeddings is not None:
            before, seen = placed(prompts, "embeddings", None, embedded)
            embedded, real = torch.cat([before, embedded], dim=1), torch.cat([seen, real], dim=1)
        positions = self._positions(real.long(), prompts, None)  # [1, T]
        made: list[tuple[Tensor, Tensor]] = []
        for start in range(0, real.shape[1], part):
            if start:
                yield None
            queries = positions[:, start : start + part]
            end = start + queries.shape[1]
            own, _ = seen_before(real[:, :end], queries.shape[1])
            call = Call(queries, own, positions[:, :end], ("input",), prompts, begins_with="embeddings", made=[])
            call.written = made or None
            self._run(embedded[:, start:end], call)
            made = call.made or []
        yield _context(made, real.long())

    def last_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        positions = self._positions(mask, None, None)
        return self._run(self.embed(input_ids), Call(positions, None, positions, ()))

    def answer(
        self,
        context: Context,
        input_ids: Tensor,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        embedded, own, places = self._answering(input_ids, prompts, rows, mask, positions)
        call = self._after(context, self._by_layer(context), len(input_ids), places, own, prompts, rows)
        hidden: Tensor = self._run(embedded, call)[:, -input_ids.shape[1] :]
        return hidden / getattr(self.model.config, "logits_scaling", 1.0)

    def _answering(
        self,
        input_ids: Tensor,
        prompts: Prompts | None,
        rows: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """What an answer reads `[B, n + S, d]`, which of it each place sees, and its positions from 0 on."""
        size, length = input_ids.shape
        device = input_ids.device
        embedded = self.embed(input_ids)
        positions = torch.arange(length, device=device) if positions is None else positions
        positions = positions.expand(size, length)
        own = mask[:, 0] if mask is not None else _earlier(length, device) if length > 1 else None
        if prompts is None or prompts.after is None:
            return embedded, own, positions
        after, seen = placed(prompts, "after", rows, embedded)
        n = after.shape[1]
        counts = seen.cumsum(1)  # [B, n]
        positions = torch.cat([(counts - 1).clamp(min=0), positions + counts[:, -1:]], dim=1)
        whole, _ = seen_before(torch.cat([seen, seen.new_ones(size, length)], dim=1), n + length)  # [B, n + S, n + S]
        if own is not None:
            whole[:, n:, n:] = own
        return torch.cat([after, embedded], dim=1), whole, positions

    def _after(
        self,
        context: Context,
        layers: Layers,
        size: int,
        places: Tensor,
        own: Tensor | None,
        prompts: Prompts | None,
        rows: Tensor | None,
    ) -> Call:
        """A pass of `size` rows that goes on from what was read, which `layers` has too, as `_by_layer` makes it;
        `places` `[B, q]`, from 0 on."""
        mask = context.mask.repeat(size // len(context.mask), 1)
        text = self._positions(mask, prompts, rows)  # [B, T]
        ends = text.masked_fill(mask == 0, -1).amax(1, keepdim=True) + 1  # [B, 1]; 0 where nothing was read
        positions = places + ends
        return Call(
            positions,
            own,
            positions,
            ("input", "answer"),
            prompts,
            rows,
            "after",
            layers,
            context.mask.bool(),
            text,
        )

    def _by_layer(self, context: Context) -> Layers:
        """The keys and the values of what was read, one after the other in memory, of each layer `[N, H, T, e]`."""
        shape = (*context.mask.shape, self.layers, 2, self.heads, self.head_width)
        keys, values = context.states.view(shape).permute(3, 2, 0, 4, 1, 5)  # each [L, N, H, T, e]
        return keys.contiguous().unbind(), values.contiguous().unbind()

    def _positions(self, mask: Tensor, prompts: Prompts | None, rows: Tensor | None) -> Tensor:
        """Of the tokens of a text and what stands before them, `[B, T]`."""
        positions = mask.cumsum(1) - 1
        before = _lengths(prompts, "input", rows, mask)  # [B, 1]
        if self.family.positions == "learned":
            return (positions + before).clamp(min=0)
        return torch.where(before > 0, positions, positions - mask.sum(1, keepdim=True))

    def _run(self, embedded: Tensor, call: Call) -> Tensor:
        """The last states `[B, q, d]`. Raises UserError where a table of positions ends."""
        if self.family.positions == "learned" and (last := int(call.positions.max())) >= self.position_limit:
            raise UserError(
                f"{self.name} has {self.position_limit} positions, and text, prompt and answer need {last + 1}; give "
                "less --max-input-tokens or a shorter prompt"
            )
        states: Tensor = self.model.get_decoder()(
            inputs_embeds=embedded, position_ids=call.positions, use_cache=False, call=call
        ).last_hidden_state
        return states

    def _writing_on(
        self,
        context: Context,
        layers: Layers,
        real: Tensor,
        queries: int,
        prompts: Prompts | None,
        rows: Tensor | None,
    ) -> Call:
        """A pass of the last places of what has been written after a context, `real` `[B, k]`."""
        own, places = seen_before(real, queries)
        call = self._after(context, layers, len(real), places, own, prompts, rows)
        call.own_positions, call.positions = call.positions, call.positions[:, -queries:]
        return call

    def write(
        self, writing: Writing, embedded: Tensor, real: Tensor, prompts: Prompts | None, rows: Tensor | None
    ) -> tuple[Writing, Tensor]:
        queries = real.shape[1]
        real = torch.cat([writing.real, real], dim=1)
        layers = writing.text or self._by_layer(writing.context)
        call = self._writing_on(writing.context, layers, real, queries, prompts, rows)
        call.written, call.made = writing.own, []
        hidden = self._run(embedded, call)[:, -1] / getattr(self.model.config, "logits_scaling", 1.0)
        return Writing(writing.context, real, tuple(call.made), layers), hidden

    @torch.no_grad()
    def generate(
        self,
        context: Context,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        *,
        lead_in: Sequence[int],
        **options: Any,
    ) -> Tensor:
        size = len(context.mask if rows is None else rows)
        cue = torch.tensor([list(lead_in)], device=self.device).expand(size, -1)
        embedded, own, _ = self._answering(cue, prompts, rows, None, None)
        # of what an answer reads, the places that the last one sees are real
        real = torch.ones_like(embedded[..., 0], dtype=torch.long) if own is None else own[..., -1, :].long()
        real = real.expand(size, -1)
        with self._going_on(context, real.bool(), prompts, rows):
            output: Tensor = self.model.generate(
                inputs_embeds=embedded,
                attention_mask=real,
                past_key_values=DynamicCache(),
                pad_token_id=self.model.config.pad_token_id or self.end,
                **options,
            )
        return output

    @contextmanager
    def _going_on(
        self, context: Context, begun: Tensor, prompts: Prompts | None, rows: Tensor | None
    ) -> Iterator[None]:
        """Transformers' `generate` goes on from a context: a hook gives each of its passes what was read, and the
        positions after it. Its own cache holds what has been written; `begun` `[B, S]` says what of the answer's
        beginning is real."""

        @cache
        def of_beams(beams: int) -> tuple[Context, Layers]:
            """What was read; of a search with several beams, which stand side by side, each has its own."""
            every = context
            if beams > 1:
                each = context.repeated(len(begun) // len(context.mask))
                every = Context(*(part.repeat_interleave(beams, dim=0) for part in (each.states, each.mask)))
            return every, self._by_layer(every)

        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            candidates = (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args)
            size, queries = next(item for item in candidates if item is not None).shape[:2]
            beams = size // len(begun)
            written = kwargs["past_key_values"].get_seq_length() + queries - begun.shape[1]
            real = pad(begun.repeat_interleave(beams, dim=0), (0, written), value=True)  # [B * beams, k]
            own_rows = None if rows is None else rows.repeat_interleave(beams)
            call = self._writing_on(*of_beams(beams), real, queries, prompts, own_rows)
            kwargs.pop("attention_mask", None)  # it would be one of the text too
            return args, {**kwargs, "position_ids": call.positions, "call": call}

        handle = self.model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def moved(self, keys: Tensor, steps: int) -> Tensor:
        """Keys of every layer `[L, H, n, e]` as they are `steps` positions later, float32.

        Raises UserError where the model turns them in no way that is known.
        """
        keys = keys.float()
        if self.family.positions == "learned":  # then keys know nothing of positions, only embeddings do
            return keys
        now, later = self._keys_at(0), self._keys_at(steps)
        moved = []
        for own, before, after in zip(keys, now, later, strict=True):
            turn, error = turn_between(self.model, before, after, steps)
            if error > (1e-3 if self.dtype == torch.float32 else 0.03):
                raise UserError(f"{self.name}: turns its keys with their positions in a way that is not known")
            moved.append(turn(own))
        return torch.stack(moved)

    def _keys_at(self, position: int) -> list[Tensor]:
        """The keys that each layer makes of some pieces, each alone at a position, `[B, H, 1, e]`."""
        pieces = torch.arange(min(32, len(self.embeddings)), device=self.device)[:, None]
        places, made = torch.full_like(pieces, position), list[tuple[Tensor, Tensor]]()
        self._run(self.embed(pieces), Call(places, None, places, (), made=made))
        return [keys.float().cpu() for keys, _ in made]

    @torch.no_grad()
    def key_values(self, places: Mapping[str, Tensor], text: Tensor, mask: Tensor, answer: Tensor) -> dict[str, Tensor]:
        """Of the text, which ends at −1, at either site."""
        made: list[tuple[Tensor, Tensor]] = []
        positions = self._positions(mask, None, None)
        self._run(text, Call(positions, None, positions, (), made=made))
        found = {}
        for site, chosen in places.items():
            row, token = chosen.to(self.device).unbind(1)
            for number, part in enumerate(("keys", "values")):
                layers = [pair[number][row, :, token].transpose(0, 1) for pair in made]  # each [H, n, e]
                found[f"{site}.{part}"] = torch.stack(layers).float().cpu()
        return found

    def common_pieces(self, count: int) -> list[int]:
        """Words that begin after a space, in the order in which the vocabulary was made: the commonest first."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        size = min(len(self.tokenizer), len(self.embeddings))
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(size)))
        words = (
            index
            for index, piece in enumerate(pieces)
            if index not in special and piece[:1] in ("Ġ", "▁") and piece[1:].isalpha()
        )
        return list(islice(words, count))


def _context(made: Sequence[tuple[Tensor, Tensor]], mask: Tensor) -> Context:
    """Of the keys and values of each layer, `[B, H, T, e]`."""
    states = torch.stack([torch.stack(pair, dim=1) for pair in made], dim=1)  # [B, L, 2, H, T, e]
    return Context(states.permute(0, 4, 1, 2, 3, 5).flatten(2), mask)


def _begun(arguments: Mapping[str, Any]) -> Begun:
    """What the sequence of a pass begins with (`add_before_layers`)."""
    call: Call = arguments["call"]
    return Begun(call.begins_with, call.prompts, call.rows, call.own_positions.shape[1] - call.positions.shape[1])


def _lengths(prompts: Prompts | None, site: str, rows: Tensor | None, like: Tensor) -> Tensor:
    """How many keys each row's prompt has at a site, `[B, 1]`."""
    if prompts is None or f"{site}.keys" not in prompts.tensors:
        return like.new_zeros(len(like), 1)
    real = prompts.tensors.get(f"{site}.mask")
    if real is None:
        return like.new_full((len(like), 1), prompts.length(site))
    return of_rows(real.sum(1, keepdim=True), rows, len(like)).to(like.dtype)


def _earlier(length: int, device: torch.device) -> Tensor:
    """`[1, S, S]`: each place sees itself and those before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None]

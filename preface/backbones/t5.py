"""Backbones of the T5 family: reading is the encoder, answering the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from preface.backbones import t5_attention
from preface.backbones.added import Begun, add_before_layers
from preface.backbones.base import Backbone, Context, Site
from preface.backbones.frozen import FrozenLinear
from preface.backbones.pieces import T5Pieces
from preface.backbones.writing import Writing, seen_before
from preface.prompts import Prompts, of_rows


class T5Backbone(T5Pieces, Backbone):
    """T5 v1.0, v1.1, LM-adapted, Flan, mT5."""

    attention = t5_attention.NAME
    answer_site = "decoder"
    position_bias = True
    cross_attention: ClassVar[type[t5_attention.CrossAttention]] = t5_attention.CrossAttention

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
    ) -> None:
        t5_attention.register()
        super().__init__(name, model, tokenizer, revision)
        for stack in (self.model.encoder, self.model.decoder):
            for block in stack.block:
                attention = block.layer[0].SelfAttention
                if attention.has_relative_attention_bias:  # the first layer's, for all layers after it too
                    table = t5_attention.preceding_bias(attention)
                attention.preceding_bias = table
        for block in self.model.decoder.block:
            block.layer[1].EncDecAttention = self.cross_attention(block.layer[1].EncDecAttention)
        add_before_layers(self.model.encoder.block, _begun)
        config = self.model.config
        heads = (config.num_heads, config.d_kv)
        self.sites = {
            "encoder": Site(config.num_layers, *heads, of="text"),
            "decoder": Site(config.num_decoder_layers, *heads, of="answer"),
            "cross": Site(config.num_decoder_layers, *heads, of="text"),
        }
        self.sizes = {
            "d_model": config.d_model,
            "d_kv": config.d_kv,
            "heads": config.num_heads,
            "encoder_layers": config.num_layers,
            "decoder_layers": config.num_decoder_layers,
            "vocabulary": config.vocab_size,
        }
        self.state_width = self.hidden_width = config.d_model
        self.layers = config.num_layers
        self.default_sites = tuple(self.sites)

    @property
    def embeddings(self) -> Tensor:
        table: Tensor = self.model.shared.weight
        return table

    @property
    def head(self) -> FrozenLinear:
        head: FrozenLinear = self.model.lm_head
        return head

    def read(
        self, input_ids: Tensor, mask: Tensor, prompts: Prompts | None = None, rows: Tensor | None = None
    ) -> Context:
        """Encode; the context also holds the states of the input embeddings that stand before the text."""
        embedded = self.embed(input_ids)  # [B, T, d]
        positions = None
        if prompts is not None and prompts.embeddings is not None:
            size = len(input_ids)
            before = of_rows(prompts.embeddings.to(embedded.dtype), rows, size)  # [B, n, d]
            embedded = torch.cat([before, embedded], dim=1)
            real = prompts.tensors.get("embeddings.mask")
            if real is None:
                seen = mask.new_ones(before.shape[:2])
            else:
                seen = of_rows(real, rows, size).to(mask.dtype)
                # a prefix stands before the first real item, not before the padding on its left
                padding = (seen == 0).sum(1, keepdim=True)  # [B, 1]
                positions = torch.arange(embedded.shape[1], device=mask.device) - padding
            mask = torch.cat([seen, mask], dim=1)
        encoder = self.model.encoder
        states = self._states(encoder, embedded, mask, prompts=prompts, rows=rows, query_positions=positions)
        return Context(states, mask)

    def last_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's."""
        return self.read(input_ids, mask).states

    def _states(
        self, stack: Any, embedded: Tensor, mask: Tensor | None, context: Context | None = None, **prompted: Any
    ) -> Tensor:
        """The last states `[B, T, d]` of the encoder, or of the decoder after a context; `prompted`: what the attention
        of the stack takes (`t5_attention.attention`)."""
        if context is not None:
            prompted |= {"encoder_hidden_states": context.states, "encoder_attention_mask": context.mask}
            prompted["use_cache"] = False
        states: Tensor = stack(inputs_embeds=embedded, attention_mask=mask, biases={}, **prompted).last_hidden_state
        return states

    def answer(
        self,
        context: Context,
        input_ids: Tensor,
        prompts: Prompts | None = None,
        rows: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        decoder, embedded = self.model.decoder, self.embed(input_ids)
        context = context.repeated(len(input_ids) // len(context.mask))
        hidden = self._states(decoder, embedded, mask, context, prompts=prompts, rows=rows, query_positions=positions)
        return self._scaled(hidden)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """T5 v1.0 shares the projection with the input embeddings, and scales for it; mT5 never does."""
        scaled = getattr(self.model.config, "scale_decoder_outputs", False)
        return hidden * self.model.config.d_model**-0.5 if scaled else hidden

    def write(
        self, writing: Writing, embedded: Tensor, real: Tensor, prompts: Prompts | None, rows: Tensor | None
    ) -> tuple[Writing, Tensor]:
        queries = real.shape[1]
        real = torch.cat([writing.real, real], dim=1)
        own, positions = seen_before(real, queries)
        made: list[tuple[Tensor, Tensor]] = []
        states = self._states(
            self.model.decoder,
            embedded,
            own[:, None],
            writing.context,
            prompts=prompts,
            rows=rows,
            query_positions=positions[:, -queries:],
            key_positions=positions,
            written=writing.own,
            made=made,
        )
        return Writing(writing.context, real, tuple(made)), self._scaled(states[:, -1])

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
        """`generate` of Transformers refuses arguments that the model's signature lacks, so the prompts are handed to
        the decoder by a hook that lives as long as the call."""
        context = context if rows is None else context.repeated(len(rows) // len(context.mask))
        more = {"prompts": prompts, "rows": rows}
        hook = self.model.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, **more}), with_kwargs=True
        )
        try:
            output: Tensor = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=context.states),
                attention_mask=context.mask,
                decoder_input_ids=torch.tensor(lead_in, device=self.device).expand(len(context.mask), -1),
                # Transformers would size the cache by the encoder's depth, and fail where the decoder is deeper
                past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
                **options,
            )
        finally:
            hook.remove()
        return output[:, len(lead_in) - 1 :]

    @torch.no_grad()
    def key_values(self, places: Mapping[str, Tensor], text: Tensor, mask: Tensor, answer: Tensor) -> dict[str, Tensor]:
        blocks = self.model.decoder.block
        modules = {
            "encoder": [block.layer[0].SelfAttention for block in self.model.encoder.block],
            "decoder": [block.layer[0].SelfAttention for block in blocks],
            "cross": [block.layer[1].EncDecAttention for block in blocks],
        }
        places = {site: chosen.to(self.device) for site, chosen in places.items()}
        each: dict[str, list[tuple[Tensor, Tensor]]] = {site: [] for site in places}  # by layer, [n, H * d_kv]
        hooks = [
            module.register_forward_hook(_recording(each[site], places[site]), with_kwargs=True)
            for site in places
            for module in modules[site]
        ]
        try:
            context = Context(self._states(self.model.encoder, text, mask), mask)
            self._states(self.model.decoder, answer, None, context)
        finally:
            for hook in hooks:
                hook.remove()
        made = {}
        for site, layers in each.items():
            for part, projected in zip(("keys", "values"), zip(*layers, strict=True), strict=True):
                stacked = torch.stack(projected).float().cpu()  # [L, n, H * d_kv]
                by_head = stacked.unflatten(-1, (self.sites[site].heads, self.sites[site].width))  # [L, n, H, d_kv]
                made[f"{site}.{part}"] = by_head.transpose(1, 2).contiguous()
        return made

    def common_pieces(self, count: int) -> list[int]:
        """T5's vocabularies are ordered by frequency after their special and byte pieces; specials, sentinels and
        control pieces are left out."""
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        size = min(len(tokenizer), len(self.embeddings))
        pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
        ordinary = (
            index
            for index, piece in enumerate(pieces)
            if index not in special and not (piece.startswith("<") and piece.endswith(">"))
        )
        return [index for index, _ in zip(ordinary, range(count), strict=False)]


def _begun(arguments: Mapping[str, Any]) -> Begun:
    """What the encoder's sequence begins with (`add_before_layers`)."""
    return Begun("embeddings", arguments.get("prompts"), arguments.get("rows"))


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    """`[B, T, d]` at places `[n, 2]`: `[n, d]`."""
    return hidden[places[:, 0], places[:, 1]]


def _recording(made: list[tuple[Tensor, Tensor]], places: Tensor) -> Any:
    """A hook that records the keys and values of an attention at n places, while it is at work: its weights may lie in
    parts otherwise."""

    def hook(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any) -> None:
        states = kwargs.get("key_value_states")
        chosen = _at(args[0] if states is None else states, places)
        made.append((module.k(chosen), module.v(chosen)))

    return hook

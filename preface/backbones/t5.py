"""A frozen model of the T5 family, and the three things done with it: encode, decode, generate."""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging as transformers_logging

from preface.backbones import attention
from preface.backbones.frozen import cross_entropy, make_frozen
from preface.errors import UserError, first_line
from preface.prompts import Injection, Site, spread

EMBEDDED = Path(__file__).parent
DEFAULT = "nano"
"""The backbone that ships inside the package."""
FAMILIES = ("t5", "mt5")
SEEN = "preface_seen_tasks"
"""Where a model's configuration lists the tasks whose labelled examples it was trained on, as far as Preface knows."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a backbone that a soft prompt must fit."""

    d_model: int
    d_kv: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a Transformers T5 configuration."""
        return cls(
            config.d_model,
            config.d_kv,
            config.num_heads,
            config.num_layers,
            config.num_decoder_layers,
            config.vocab_size,
        )

    def layers(self, site: Site) -> int:
        """How many layers have the attention site."""
        return self.encoder_layers if site == "encoder" else self.decoder_layers


@dataclass(frozen=True)
class EncoderStates:
    """What the decoder reads of an input: `hidden` `[B, m, d_model]`, `mask` `[B, m]` (1: real), m = n + T."""

    hidden: Tensor
    mask: Tensor


class Backbone:
    """A frozen model and its tokenizer. Its weights get no gradient and never change."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.model: Any = model.eval().requires_grad_(False)  # its submodules are T5's, which the type does not say
        self.tokenizer = tokenizer
        self.shape = Shape.of(model.config)
        self.kept: dict[str, Any] = {}  # encoder states, by the inputs they are of (`preface.backbones.contexts`)
        make_frozen(model)
        for stack in (self.model.encoder, self.model.decoder):
            table = attention.preceding_bias(stack.block[0].layer[0].SelfAttention)
            for block in stack.block:
                block.layer[0].SelfAttention.preceding_bias = table
        for block in self.model.decoder.block:
            block.layer[1].EncDecAttention = attention.CrossAttention(block.layer[1].EncDecAttention)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.shared.weight.dtype

    @property
    def seen_tasks(self) -> tuple[str, ...]:
        """Tasks whose labelled examples its training saw: none of them is a new domain for it. Empty if not known."""
        return tuple(getattr(self.model.config, SEEN, ()))

    @cached_property
    def parameters(self) -> int:
        """The number of the model's own parameters, all frozen."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, as bfloat16, so that a checkpoint loaded in either precision has one name."""
        return weights_hash(self.model, torch.bfloat16)

    @cached_property
    def exact_fingerprint(self) -> str:
        """SHA-256 of all that decides what the model computes: weights as they are, and the whole configuration."""
        config = {name: value for name, value in self.model.config.to_dict().items() if name != "_name_or_path"}
        told = json.dumps(config, sort_keys=True, default=str)
        return hashlib.sha256((weights_hash(self.model, self.dtype) + told).encode()).hexdigest()

    def encode(self, input_ids: Tensor, mask: Tensor, injection: Injection | None = None) -> EncoderStates:
        """Encode `input_ids` and `mask` `[B, T]` after the injection's input embeddings."""
        embeddings = self.model.shared(input_ids)  # [B, T, d]
        positions = None
        if injection is not None and injection.embeddings is not None:
            size, rows = len(input_ids), injection.rows
            prompt = spread(injection.embeddings.to(embeddings.dtype), rows, size)  # [B, n, d]
            embeddings = torch.cat([prompt, embeddings], dim=1)
            if injection.embeddings_mask is None:
                seen = mask.new_ones(prompt.shape[:2])
            else:
                seen = spread(injection.embeddings_mask, rows, size).to(mask.dtype)
                # a prefix stands before the first real item, not before the padding on its left
                padding = (seen == 0).sum(1, keepdim=True)  # [B, 1]
                positions = torch.arange(prompt.shape[1] + input_ids.shape[1], device=mask.device) - padding
            mask = torch.cat([seen, mask], dim=1)
        hidden = self.model.encoder(
            inputs_embeds=embeddings, attention_mask=mask, injection=injection, query_positions=positions, biases={}
        ).last_hidden_state
        return EncoderStates(hidden, mask)

    def decoder_states(
        self,
        states: EncoderStates,
        decoder_input_ids: Tensor,  # [B, S]
        injection: Injection | None = None,
        decoder_mask: Tensor | None = None,  # [B, S], or [B, 1, S, S] of booleans
        query_positions: Tensor | None = None,  # [S]
    ) -> Tensor:
        """What the vocabulary projection reads after each decoder input, `[B, S, d_model]`."""
        hidden: Tensor = self.model.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_mask,
            encoder_hidden_states=states.hidden,
            encoder_attention_mask=states.mask,
            use_cache=False,
            injection=injection,
            query_positions=query_positions,
            biases={},
        ).last_hidden_state
        # T5 v1.0 shares the projection with the input embeddings, and scales for it; mT5 never does
        scaled = getattr(self.model.config, "scale_decoder_outputs", False)
        return hidden * self.shape.d_model**-0.5 if scaled else hidden

    def decode(self, states: EncoderStates, decoder_input_ids: Tensor, injection: Injection | None = None) -> Tensor:
        """The logits `[B, S, vocabulary]` of the token after each decoder input `[B, S]`."""
        logits: Tensor = self.model.lm_head(self.decoder_states(states, decoder_input_ids, injection))
        return logits

    def forward(self, input_ids: Tensor, mask: Tensor, labels: Tensor, injection: Injection | None = None) -> Tensor:
        """The logits `[B, S, vocabulary]` that predict `labels` `[B, S]` (−100: padding)."""
        return self.decode(self.encode(input_ids, mask, injection), self.shift_right(labels), injection)

    def losses(
        self, states: EncoderStates, labels: Tensor, injection: Injection | None = None, every_position: bool = False
    ) -> Tensor:
        """−log of the probability of each label piece, `[B, S]` as `labels` (−100: padding, where it is 0), float32.

        The loss of `decode`'s logits, without them. No position is projected that has no label, unless
        `every_position` is, which makes all shapes the same whatever the labels are. `labels` are best left on the CPU
        otherwise, where counting them keeps no device waiting.
        """
        decoder_input = self.send(self.shift_right(labels))
        hidden = self.decoder_states(states, decoder_input, injection).flatten(0, 1)  # [B * S, d]
        head, flat = self.model.lm_head, labels.flatten()
        if every_position:
            flat = self.send(flat)
            pieces = cross_entropy(hidden, head, flat.clamp(min=0))
            return pieces.masked_fill(flat == -100, 0.0).view_as(labels)
        real = (flat != -100).nonzero().squeeze(1)  # [M]
        if len(real) < len(flat):
            places = self.send(real)
            pieces = cross_entropy(hidden[places], head, self.send(flat[real]))
            return pieces.new_zeros(len(flat)).index_add(0, places, pieces).view_as(labels)
        return cross_entropy(hidden, head, self.send(flat)).view_as(labels)

    def shift_right(self, labels: Tensor) -> Tensor:
        """Labels to decoder inputs: the start token, then all labels but the last; −100 becomes padding."""
        return self.model._shift_right(labels)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, mask: Tensor, injection: Injection | None = None, **options: Any) -> Tensor:
        """Generated tokens `[B, S]`; `options` are Transformers' own (`num_beams`, `max_new_tokens`, …).

        `generate` refuses arguments that the model's signature lacks, so the injection is handed to the decoder by a
        hook that lives as long as the call.
        """
        states = self.encode(input_ids, mask, injection)
        hook = self.model.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "injection": injection}), with_kwargs=True
        )
        try:
            output: Tensor = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states.hidden),
                attention_mask=states.mask,
                # Transformers would size the cache by the encoder's depth, and fail where the decoder is deeper
                past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
                **options,
            )
        finally:
            hook.remove()
        return output

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

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, ended by `</s>`, and whether it was cut to `max_tokens`."""
        eos = self.model.config.eos_token_id
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        cut = [len(item) > max_tokens - 1 for item in ids]
        return [[*item[: max_tokens - 1], eos] for item in ids], cut

    def pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]`, padded on the right, on the model's device."""
        length = max(map(len, sequences))
        padding = self.model.config.pad_token_id
        ids = torch.tensor([[*item, *[padding] * (length - len(item))] for item in sequences])
        mask = torch.tensor([[1] * len(item) + [0] * (length - len(item)) for item in sequences])
        return self.send(ids), self.send(mask)

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the model's device, without waiting for it."""
        return send(tensor, self.device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU to a GPU without waiting for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def weights_hash(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """SHA-256 of a model's sizes and of all its weights, in `dtype`."""
    digest = hashlib.sha256(repr(asdict(Shape.of(model.config))).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.to("cpu", dtype).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def set_dropout(model: nn.Module, rate: float) -> None:
    """The rate of every dropout in the model while it trains."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate  # type: ignore[assignment]


def load_backbone(name_or_path: str | Path = DEFAULT, dtype: str = "auto", device: str = "auto") -> Backbone:
    """Load and freeze a Transformers T5-family checkpoint (T5 v1.0, v1.1, LM-adapted, Flan, mT5).

    Args:
        name_or_path: the embedded backbone (`nano`), a folder, or a name on the Hugging Face hub.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies it fast, else float32.
            Never float16, in which T5 v1 overflows.
        device: `auto` (a GPU if there is one), or any name that torch knows.

    Raises:
        UserError: no such checkpoint, not of the T5 family, or an unknown dtype or device.
    """
    attention.register()
    target = device_named(device)
    if target.type == "cpu":
        keep_freed_memory()
    model, tokenizer = load_checkpoint(name_or_path, dtype_named(dtype, target), attn_implementation=attention.NAME)
    model.to(target)  # type: ignore[arg-type]
    return Backbone(str(name_or_path), model, tokenizer)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of handing it back: each step wants the same blocks again, zeroed anew."""
    if sys.platform == "linux":
        trim, mmap, largest = -1, -3, 32 * 2**20  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and its limit
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(mmap, largest)
            mallopt(trim, 2**31 - 1)


def checkpoint_path(name_or_path: str | Path) -> str | Path:
    """Where an embedded backbone lies; any other name or folder as it is."""
    embedded = EMBEDDED / name_or_path
    return embedded if (embedded / "config.json").exists() else name_or_path


def load_checkpoint(
    name_or_path: str | Path, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a T5-family checkpoint, as `load_backbone` names it; `options` are Transformers' own.

    Raises UserError as `load_backbone` does.
    """
    transformers_logging.disable_progress_bar()
    path = checkpoint_path(name_or_path)
    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in FAMILIES:
            raise UserError(
                f"backbone {name_or_path}: a {config.model_type} model; Preface takes the T5 family "
                f"({', '.join(FAMILIES)})"
            )
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=dtype, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(
            f"backbone {name_or_path}: cannot be loaded ({reason}); give a folder with config.json, weights and a "
            f"tokenizer, a name on the Hugging Face hub, or `{DEFAULT}`, which ships with Preface"
        ) from error
    return model, tokenizer


def device_named(name: str) -> torch.device:
    """`auto` is a GPU if there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name}: not available here; `cpu` always is") from error
    return device


def dtype_named(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it. Raises UserError for other names than the three."""
    if name == "auto":
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        raise UserError(f"dtype {name}: one of auto, {', '.join(dtypes)} (float16 overflows in T5)")
    return dtypes[name]


def bfloat16_is_fast(device: torch.device) -> bool:
    """True where matrix products in bfloat16 run in hardware; elsewhere they are emulated, up to 90 x slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
    return False

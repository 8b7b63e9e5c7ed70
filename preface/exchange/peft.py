"""PEFT's folders of prompts: `adapter_config.json` and `adapter_model.safetensors`. PEFT itself is needed neither way.

PEFT puts input embeddings before the whole text, as `embeddings` stand here, and keeps keys and values as a cache does.
In a decoder-only model its text begins at position n, after the keys, and here at 0: the keys that both have of the
same prompt differ by n positions. Of T5 PEFT's prefix reaches the decoder's self-attention alone, and its layers share:
the table stands beside itself and is given out four blocks a layer, of which two are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load as loads
from safetensors.torch import save
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.quantized import split_name
from preface.errors import UserError
from preface.exchange.base import INPUT_EMBEDDINGS, Foreign, Load, embeddings_for, refuse_several, tensors_for
from preface.records.atomic import naming, replacing
from preface.records.card import SavedPrompt
from preface.records.record import Record

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
METHODS = {
    "PROMPT_TUNING": "prompt-tuning",
    "P_TUNING": "p-tuning",
    "MULTITASK_PROMPT_TUNING": "multitask-prompt-tuning",
    "PREFIX_TUNING": "prefix-tuning",
}
"""By PEFT's type."""
SEQ2SEQ, CAUSAL = "SEQ_2_SEQ_LM", "CAUSAL_LM"
HOLDS = {
    SEQ2SEQ: f"{INPUT_EMBEDDINGS}, and of a T5 prefix the decoder site alone (--sites decoder)",
    CAUSAL: f"{INPUT_EMBEDDINGS}, before the text, and a prefix that the text sees (--sites input)",
}
"""By PEFT's kind of model."""


class Config(Record):
    """What of a folder's configuration counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    num_virtual_tokens: int = 0
    num_transformer_submodules: int | None = None
    num_attention_heads: int | None = None
    num_layers: int | None = None
    modules_to_save: list[str] | None = None

    @property
    def submodules(self) -> int:
        """PEFT's S: 2 where a model has an encoder too, unless it is told otherwise."""
        return self.num_transformer_submodules or (2 if self.task_type == SEQ2SEQ else 1)


# written


def write_peft(saved: SavedPrompt, folder: Path, load: Callable[[], Backbone]) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads.

    `load` gives the prompt's backbone, which a prefix is rotated with.

    Every prompt of input embeddings is prompt tuning to PEFT, which keeps of a network no more than what it made; what
    several tasks share, and the two vectors of each, are multitask prompt tuning, tasks in the card's order.

    Raises UserError for a prompt that PEFT would not read as it is read here.
    """
    refuse_several(saved)
    config, tensors = _multitask(saved) if saved.card.shared_by else _single(saved, load)
    card, shape = saved.card, saved.card.shape
    every = {
        "base_model_name_or_path": split_name(card.backbone)[0],
        "revision": card.revision,
        "task_type": _kind(saved),
        "inference_mode": True,
        "num_attention_heads": shape["heads"],
        "num_layers": shape["layers"] if _kind(saved) == CAUSAL else shape["decoder_layers"],
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(tensors["prompt_embeddings"]),
    }
    blob = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    with naming(folder), replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / CONFIG).write_text(json.dumps(every | config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (temporary / TENSORS).write_bytes(blob)


def _kind(saved: SavedPrompt) -> str:
    return SEQ2SEQ if "encoder_layers" in saved.card.shape else CAUSAL


def _single(saved: SavedPrompt, load: Callable[[], Backbone]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of one prompt what PEFT's configuration and tensors are."""
    kind = _kind(saved)
    site = "decoder" if kind == SEQ2SEQ else "input"
    names = ("embeddings", f"{site}.keys", f"{site}.values")
    tensors = tensors_for(saved, names, "PEFT", HOLDS[kind])
    if len(tensors) > 2:
        raise UserError(f"{saved.folder}: has embeddings and a prefix, and PEFT holds one of them")
    if (table := tensors.get("embeddings")) is not None:
        about = {"peft_type": "PROMPT_TUNING", "token_dim": table.shape[1]}
        return about, {"prompt_embeddings": table}
    keys, values = tensors[f"{site}.keys"], tensors[f"{site}.values"]  # [L, H, n, e]
    about = {"peft_type": "PREFIX_TUNING", "token_dim": keys.shape[1] * keys.shape[3], "prefix_projection": False}
    if kind == SEQ2SEQ:
        blocks = _shared_blocks(keys, values)
        if not all(map(torch.equal, _by_layer(blocks, len(keys)), (keys, values))):
            raise UserError(
                f"{saved.folder}: its {len(keys)} layers have keys and values of their own, and PEFT gives layers "
                f"{len(keys) // 2} apart the same ones; it holds a prefix of T5 only where they are equal"
            )
        about["num_transformer_submodules"] = 2
    else:
        model = load()
        assert isinstance(model, CausalBackbone)
        blocks = torch.stack([model.moved(keys, keys.shape[2]), values], dim=1).flatten(0, 1)
    return about, {"prompt_embeddings": blocks.permute(2, 0, 1, 3).flatten(1)}  # [n, 2L · H · e]


def _multitask(saved: SavedPrompt) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What tasks share, `[n, d]`, and of each of T a column `[n, 1]` and a row `[1, d]` that it is multiplied by."""
    shared = saved.prompts.tensors_of(0).get("embeddings")
    if shared is None:
        raise UserError(f"{saved.folder}: stands after the text, which does not see it, and PEFT has no place for that")
    shared = shared.float()
    factors = []
    for name in saved.card.shared_by:
        own = saved.of_task(name).prompts.tensors_of(0)["embeddings"].float()
        column, row = _factors(shared, own)
        if not torch.allclose(shared * column * row, own, rtol=1e-4, atol=1e-6):
            raise UserError(
                f"{saved.folder}: its prompt for {name} is not the shared one times a column and a row; export it alone"
            )
        factors.append((column, row))
    columns, rows = (torch.stack(part) for part in zip(*factors, strict=True))
    about = {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "token_dim": shared.shape[1],
        "num_tasks": len(factors),
        "num_ranks": 1,
    }
    return about, {"prompt_embeddings": shared, "prefix_task_cols": columns, "prefix_task_rows": rows}


def _factors(shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The column `[n, 1]` and the row `[1, d]` whose product `shared` was multiplied by to make `own`."""
    ratio = torch.where(shared == 0, 0.0, own / shared)  # every row of it is the same but for a number
    place = int(ratio.abs().argmax())
    at, along = divmod(place, ratio.shape[1])
    if not ratio[at, along]:
        return ratio[:, :1], ratio[:1]
    return ratio[:, along, None], ratio[None, at] / ratio[at, along]


# read


def read_peft(folder: Path, load: Load) -> Foreign:
    """Read a folder that PEFT saved. Raises UserError for what is no prompt, or has no place here."""
    config, tensors = _read(folder)
    model = load(config.base_model_name_or_path)
    if (config.task_type == SEQ2SEQ) != ("encoder" in model.sites):
        raise UserError(f"{folder}: is of a {config.task_type} model, and {model.name} is another kind")
    table, method = tensors["prompt_embeddings"], METHODS[config.peft_type]
    if method == "prefix-tuning":
        return Foreign(model, method, _prefix(folder, config, table, model))
    if len(table) != config.num_virtual_tokens * config.submodules:
        raise UserError(
            f"{folder / TENSORS}: has {len(table)} rows, and {CONFIG} says {config.num_virtual_tokens} times "
            f"{config.submodules}"
        )
    if method == "multitask-prompt-tuning":
        return _tasks(folder, config, tensors, model)
    # the rows of the second submodule are for a decoder that never reads them
    own = table[: config.num_virtual_tokens] if config.task_type == SEQ2SEQ else table
    return Foreign(model, method, embeddings_for(model, own, folder))


def _read(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and tensors, float32."""
    try:
        content = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no prompt of PEFT here (no {CONFIG})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / CONFIG}: is no JSON") from error
    config = Config.of(content, folder / CONFIG)
    if config.peft_type not in METHODS:
        raise UserError(f"{folder}: is {config.peft_type}, and {', '.join(METHODS)} are prompts")
    if config.task_type not in HOLDS:
        raise UserError(f"{folder}: is for {config.task_type}, and prompts of {SEQ2SEQ} and {CAUSAL} are taken")
    if config.modules_to_save:
        raise UserError(
            f"{folder}: has weights of the model too ({', '.join(config.modules_to_save)}), not a prompt alone"
        )
    try:
        tensors = loads((folder / TENSORS).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: has no {TENSORS}; save it with PEFT's save_pretrained, as safetensors") from error
    except SafetensorError as error:
        raise UserError(f"{folder / TENSORS}: is no safetensors file ({error})") from error
    multitask = config.peft_type == "MULTITASK_PROMPT_TUNING"
    needed = {"prompt_embeddings", *(("prefix_task_cols", "prefix_task_rows") if multitask else ())}
    if set(tensors) != needed:
        raise UserError(
            f"{folder / TENSORS}: has {', '.join(sorted(tensors)) or 'nothing'}, not {', '.join(sorted(needed))}"
        )
    if (table := tensors["prompt_embeddings"]).dim() != 2:
        raise UserError(
            f"{folder / TENSORS}: has prompt_embeddings of sizes {list(table.shape)}, and a prompt's have [length, d]"
        )
    return config, {name: tensor.float() for name, tensor in tensors.items()}


def _prefix(folder: Path, config: Config, table: Tensor, model: Backbone) -> dict[str, Tensor]:
    """Keys and values of PEFT's table `[n, 2L · H · e]`, as they reach the model."""
    name = "decoder" if config.task_type == SEQ2SEQ else "input"
    site = model.sites[name]
    layers = config.num_layers or site.layers
    if (layers, table.shape[1]) != (site.layers, 2 * site.layers * site.heads * site.width):
        raise UserError(
            f"{folder}: a prefix for {layers} layers, with {table.shape[-1]} numbers a token; {model.name} has "
            f"{site.layers} layers at its {name} site, with {2 * site.layers * site.heads * site.width}"
        )
    if config.submodules != (2 if name == "decoder" else 1):
        raise UserError(
            f"{folder / CONFIG}: num_transformer_submodules is {config.submodules}, which PEFT itself cannot use"
        )
    blocks = table.unflatten(-1, (2 * layers, site.heads, site.width)).permute(1, 2, 0, 3)  # [2L, H, n, e]
    if name == "decoder":
        keys, values = _by_layer(blocks, layers)
    else:
        assert isinstance(model, CausalBackbone)
        keys, values = model.moved(blocks[0::2], -len(table)), blocks[1::2]
    return {f"{name}.keys": keys, f"{name}.values": values.contiguous()}


def _tasks(folder: Path, config: Config, tensors: dict[str, Tensor], model: Backbone) -> Foreign:
    """What tasks share, and each one's prompt."""
    if config.submodules != 1:
        raise UserError(
            f"{folder}: PEFT puts half of its rows before what the decoder reads (num_transformer_submodules is "
            f"{config.submodules}), where no prompt stands here; train it with num_transformer_submodules=1"
        )
    shared, columns, rows = (tensors[name] for name in ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows"))
    fit = columns.dim() == rows.dim() == 3 and columns.shape[::2] == rows.shape[:2]  # [T, n, r] and [T, r, d]
    if not fit or (columns.shape[1], rows.shape[2]) != shared.shape:
        raise UserError(
            f"{folder / TENSORS}: its columns {list(columns.shape)}, rows {list(rows.shape)} and prompt_embeddings "
            f"{list(shared.shape)} do not fit together"
        )
    each = tuple(embeddings_for(model, shared * times, folder) for times in columns @ rows)  # T times [n, d]
    method = METHODS[config.peft_type]
    if len(each) == 1:
        return Foreign(model, method, each[0])
    return Foreign(model, method, embeddings_for(model, shared, folder), each)


# T5's decoder: which layer has which blocks


def _places(layers: int) -> list[tuple[int, int]]:
    """Of each layer's keys and values the blocks, of the 2L that there are."""
    return [(4 * layer % (2 * layers), (4 * layer + 1) % (2 * layers)) for layer in range(layers)]


def _by_layer(blocks: Tensor, layers: int) -> Sequence[Tensor]:
    """Keys and values `[L, H, n, e]` of blocks `[2L, H, n, e]`."""
    return [torch.stack([blocks[place] for place in part]) for part in zip(*_places(layers), strict=True)]


def _shared_blocks(keys: Tensor, values: Tensor) -> Tensor:
    """Blocks `[2L, H, n, e]` of keys and values `[L, H, n, e]`; those that no layer reads are zero. Of layers that
    share, the last one's stay."""
    blocks = keys.new_zeros(2 * len(keys), *keys.shape[1:])
    for layer, (key, value) in enumerate(_places(len(keys))):
        blocks[key], blocks[value] = keys[layer], values[layer]
    return blocks

"""Everything that the record of a pre-training names, built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preface.backbones.base import SEEN
from preface.backbones.frozen import fuse_gelu
from preface.backbones.load import device_named, dtype_name, dtype_named, load_checkpoint
from preface.backbones.pieces import CausalPieces, Pieces
from preface.errors import UserError
from preface.pretraining.architecture import load_architecture
from preface.pretraining.instructions import worded
from preface.pretraining.keep_out import KeepOut
from preface.pretraining.mixture import (
    Batch,
    Instructions,
    LanguageModel,
    Mixture,
    Objective,
    ObjectiveName,
    PrefixLM,
    SpanCorruption,
    sentinels,
)
from preface.pretraining.objectives import span_lengths
from preface.pretraining.probe import probe
from preface.pretraining.settings import Settings
from preface.pretraining.tokens import Tokens
from preface.pretraining.weights import Machine
from preface.tasks import Example, Task, load_split, load_task
from preface.tasks.task import SplitName
from preface.terminal.progress import warn

RECORD = "backbone.json"
VALIDATION_BATCHES = 4
VALIDATION_ROWS = 32
"""Held-out sequences of each objective in a batch."""
SHOWN = (
    "d_model", "d_kv", "num_heads", "d_ff", "num_layers", "num_decoder_layers", "feed_forward_proj", "vocab_size",
    "scale_decoder_outputs", "relative_attention_num_buckets", "relative_attention_max_distance", "model_type",
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
)  # fmt: skip
"""Of a model's configuration, in the record."""


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    mixture: Mixture
    validation: Sequence[Batch]
    """Held-out batches."""
    left_out: dict[str, int]
    """How many examples were kept out, by task of the instructions."""


def machine_of(name: str, dtype: str, batch_size: int) -> Machine:
    """The processes, and this one's device. Raises UserError if they cannot share the batch evenly."""
    device = device_named(name)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if batch_size % accelerator.num_processes:
        raise UserError(
            f"batch-size: {batch_size} sequences cannot be shared evenly by {accelerator.num_processes} processes"
        )
    own = device if accelerator.num_processes == 1 else accelerator.device
    return Machine(accelerator, own, dtype_named(dtype, device))


def described(
    record: Mapping[str, Any], folder: Path, machine: Machine, model: PreTrainedModel, left_out: Mapping[str, int]
) -> dict[str, Any]:
    """What the record says of the model, of where it comes from and of where it is trained."""
    return {
        "name": folder.name,
        "dtype": dtype_name(machine.dtype),
        "ran_on": str(machine.device),
        "threads": torch.get_num_threads(),
        "processes": machine.accelerator.num_processes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seen_tasks": sorted({*getattr(model.config, SEEN, []), *left_out}),
        "left_out_examples": dict(left_out),
        "ancestors": _ancestors(record["began_from"]),
        "config": {name: getattr(model.config, name, None) for name in SHOWN},
    }


def _ancestors(checkpoint: str | None) -> list[dict[str, Any]]:
    """What a checkpoint made by Preface was trained on, and those that it came from, oldest first."""
    path = Path(checkpoint or "") / RECORD
    if checkpoint is None or not path.is_file():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        own = {name: record.get(name) for name in ("name", "verb", "began_from", "settings", "tasks", "text")}
        return [*record.get("ancestors", []), own | {"tokens": int(record["result"]["tokens"])}]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or of a backbone that is not finished; finish it with --resume") from error


def checked_text(tokens: Tokens, record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the text is, for record and card. Raises UserError if it is not what was begun with, or not kept clean."""
    keep_out, digest = tokens.card["config"]["keep_out"], tokens.card["sha256"]
    if "text" in record and record["text"]["sha256"] != digest:
        raise UserError(f"{tokens.folder}: other tokens than {folder} was begun with; start anew")
    if missing := set(record["keep_out"]) - set(keep_out):
        raise UserError(
            f"keep-out: {', '.join(sorted(missing))} may be in the text of {tokens.folder}; make it anew with "
            "`preface tokenize … --keep-out`"
        )
    return {
        # of a path, the folder too: `train.jsonl` alone says little
        "sources": ["/".join(Path(source["name"]).parts[-2:]) for source in tokens.card["sources"]],
        "keep_out": keep_out,
        "dropped": tokens.card["dropped"],
        "tokens": tokens.card["tokens"],
        "sha256": digest,
    }


def build_model(
    record: Mapping[str, Any], tokens: Tokens | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to begin with, and its tokenizer."""
    if record["began_from"] is None:
        if tokens is None:
            raise UserError("tokens: needed to train from scratch, for their tokenizer if nothing else")
        tokenizer = tokens.tokenizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = load_architecture(None, **record["architecture"]).build(tokenizer)
    else:
        model, tokenizer = load_checkpoint(record["began_from"], torch.float32)
        if tokens is not None and tokens.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"{tokens.folder}: made with another tokenizer than {record['began_from']}'s; "
                f"`preface tokenize … --tokenizer {record['began_from']}` makes one that fits"
            )
    fuse_gelu(model)
    return model, tokenizer


def build_data(record: Mapping[str, Any], settings: Settings, tokens: Tokens | None, pieces: Pieces) -> Data:
    """The objectives of the settings, mixed, and what is held out of them."""
    length, seed = settings.input_length, settings.seed
    found: dict[ObjectiveName, Objective] = {}
    held_out: list[Objective] = [] if tokens is None else _held_out_text(tokens, pieces, length)
    left_out: dict[str, int] = {}
    for name in settings.objectives:
        if name == "instructions":
            kept_out = KeepOut.of(record["keep_out"], record["data"])
            train, left_out = _instructions(record, "train", length, kept_out)
            cues = {task.name: task.cue for task in map(_task, record["tasks"])}
            found[name] = Instructions(train, pieces, length, seed, cues)
            if validation := _instructions(record, "validation", length, None)[0]:
                held_out.insert(0, Instructions(validation, pieces, length, 0, cues))
        else:
            assert tokens is not None
            found[name] = _of_text(name, tokens.train, pieces, length, seed)
    batches = [each.batch(step, VALIDATION_ROWS) for each in held_out for step in range(VALIDATION_BATCHES)]
    return Data(Mixture(found, record["settings"]["objectives"], seed), batches, left_out)


def _of_text(name: ObjectiveName, tokens: Any, pieces: Pieces, length: int, seed: int) -> Objective:
    """An objective on a flat file of tokens. Raises UserError for one that is not the model's."""
    if not isinstance(pieces, CausalPieces):
        kind = SpanCorruption if name == "span-corruption" else PrefixLM
        return kind(tokens, pieces.tokenizer, length, seed)
    if name == "span-corruption":
        raise UserError(f"span-corruption: {pieces.name} is a decoder-only model, which learns text by prefix-lm")
    return LanguageModel(tokens, length, seed)


def _held_out_text(tokens: Tokens, pieces: Pieces, length: int) -> list[Objective]:
    """Whatever a backbone learns, it is measured in both ways on the text that is held out."""
    if len(tokens.validation) < 3 * length:
        warn(f"{tokens.folder}: {len(tokens.validation):,} tokens are held out, too few to measure as training goes on")
        return []
    held_out = [_of_text("prefix-lm", tokens.validation, pieces, length, 0)]
    if not isinstance(pieces, CausalPieces) and span_lengths(length).spans <= len(sentinels(pieces.tokenizer)):
        held_out.insert(0, SpanCorruption(tokens.validation, pieces.tokenizer, length, 0))
    return held_out


def _instructions(
    record: Mapping[str, Any], split: SplitName, length: int, kept_out: KeepOut | None
) -> tuple[dict[str, list[list[Example]]], dict[str, int]]:
    """The examples of each task that has the split, a list a template, and how many rows were left out by task."""
    found: dict[str, list[list[Example]]] = {}
    left_out: dict[str, int] = {}
    for name in record["tasks"]:
        task = _task(name)
        if task.name in found:
            raise UserError(f"tasks: {task.name} is named twice; rename one of the files")
        if split == "validation" and split not in task.splits:
            continue
        read = load_split(task, split, data=record["data"]).examples
        rows = [row for row in read if kept_out is None or not kept_out.matches(row.text)]
        if not rows:
            raise UserError(f"{name}: no row is left once the evaluation inputs of --keep-out are out; leave it out")
        # what is long is shown in part: half of the length leaves room for the wording; single texts also in short
        sizes = (length // 2, length // 8) if len(task.fields.input) == 1 else (length // 2,)
        found[task.name] = [examples for words in sizes for examples in worded(task, rows, words=max(words, 1))]
        left_out[task.name] = len(read) - len(rows)
    return found, left_out


def _task(name: str) -> Task:
    """`load_task`, whose advice for a data file may be an option: where tasks are several, none is for one of them."""
    try:
        return load_task(name)
    except UserError as error:
        if "--" not in str(error):
            raise
        raise UserError(f"{error} (where tasks are several, a YAML says what options say of one)") from error


def plain_pieces(tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
    """`[vocabulary]`, True for pieces of text: neither a sentinel nor `</s>`."""
    plain = torch.ones(size, dtype=torch.bool)
    plain[torch.from_numpy(sentinels(tokenizer))] = False
    plain[tokenizer.eos_token_id] = False  # type: ignore[index]
    return plain


def check_probes(record: Mapping[str, Any]) -> None:
    """What is not there should be missed now, not after hours."""
    for task, split in product(record["probe_tasks"], ("train", "validation")):
        load_split(_task(task), split, data=record["data"])


def prober(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], data: str | None
) -> Callable[[PreTrainedModel, int], dict[str, float]] | None:
    """A function that measures what a small prefix can do with a model, by task."""
    if not tasks:
        return None

    def scores(model: PreTrainedModel, step: int) -> dict[str, float]:
        return {
            task: probe(model, tokenizer, task, folder / "probes" / f"{_plain_name(task)}-{step:07d}", data)
            for task in tasks
        }

    return scores


def _plain_name(task: str) -> str:
    """A folder's name for a task, which may be a path."""
    stem = Path(task).stem
    return stem if stem == task else f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"

"""Make a backbone: from scratch, or from another one."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preface.backbones.base import SEEN
from preface.backbones.frozen import fuse_gelu
from preface.backbones.load import device_named, dtype_named, load_checkpoint
from preface.errors import UserError
from preface.options import validated
from preface.pretraining.architecture import load_architecture
from preface.pretraining.card import write_card
from preface.pretraining.instructions import worded
from preface.pretraining.keep_out import KeepOut
from preface.pretraining.loop import Pretraining
from preface.pretraining.mixture import (
    Batch,
    Instructions,
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
from preface.records.atomic import write_atomically
from preface.records.lock import locked
from preface.records.results import installed_versions
from preface.tasks import Example, load_split, load_task
from preface.tasks.task import SplitName
from preface.terminal.progress import warn

RECORD = "backbone.json"
VALIDATION_BATCHES = 4
VALIDATION_ROWS = 32
"""Held-out sequences of each objective that are looked at."""


def pretrain(
    tokens: str | Path,
    out: str | Path,
    *,
    architecture: str | Path | None = None,
    numbers: Mapping[str, Any] | None = None,
    objectives: Mapping[str, float] | None = None,
    tasks: Sequence[str] = (),
    keep_out: Sequence[str] = (),
    probes: Sequence[str] = (),
    data: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **settings: Any,
) -> Path:
    """Train a T5 from scratch.

    Args:
        tokens: a folder that `tokenize` made; its tokenizer becomes the backbone's.
        out: the backbone's folder, which Transformers loads. An unfinished one is resumed with `resume`.
        architecture: a shipped shape (`1m`, `4m`, `11m`, `30m`) or a YAML; `numbers` are fields of `Architecture`
            that win over it.
        objectives: weights of `span-corruption` (default: it alone), `prefix-lm`, `instructions`.
        tasks: what instructions are made of; examples whose text is an evaluation input of `keep_out` are left out.
        probes: tasks on which a small prefix is tuned as training goes on.
        data: folder with the data files of shipped tasks (default: the environment's PREFACE_DATA).
        dtype: what the model computes in; weights and optimizer are float32 always.
        settings: fields of `Settings`: `minutes`, `steps` or `budget_tokens`, `learning_rate`, …

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; `resume` goes on.
    """
    shape = load_architecture(architecture, **(numbers or {}))
    asked = _asked(tokens, tasks, keep_out, probes, data, dtype, device, objectives or {"span-corruption": 1}, settings)
    asked |= {"verb": "pretrain", "architecture": shape.model_dump(mode="json"), "began_from": None}
    return _begin(Path(out), asked)


def adapt(
    checkpoint: str | Path,
    out: str | Path,
    *,
    tokens: str | Path | None = None,
    objectives: Mapping[str, float] | None = None,
    tasks: Sequence[str] = (),
    keep_out: Sequence[str] = (),
    probes: Sequence[str] = (),
    data: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **settings: Any,
) -> Path:
    """Train all weights of a T5-family checkpoint on: LM adaptation (Lester et al. 2021, section 3.2), more span
    corruption, instruction tuning (Wei et al. 2022), full tuning on one task, or a mixture.

    Args:
        checkpoint: an embedded backbone, a folder, or a name on the Hugging Face hub.
        tokens: a folder that `tokenize` made with the checkpoint's tokenizer; not needed for instructions alone.
        objectives: as for `pretrain` (default: `prefix-lm` alone).

    All else is as for `pretrain`.
    """
    asked = _asked(tokens, tasks, keep_out, probes, data, dtype, device, objectives or {"prefix-lm": 1}, settings)
    asked |= {"verb": "adapt", "architecture": None, "began_from": str(checkpoint)}
    return _begin(Path(out), asked)


def resume(folder: str | Path, device: str | None = None) -> Path:
    """Go on with an interrupted `pretrain` or `adapt`; all else comes from its folder."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: nothing to resume (no readable {RECORD} there)") from error
    if "result" in record:
        raise UserError(f"{folder}: finished already; it loads as a backbone")
    return _go(folder, record | {"device": device or record["device"]})


def _asked(
    tokens: str | Path | None,
    tasks: Sequence[str],
    keep_out: Sequence[str],
    probes: Sequence[str],
    data: str | Path | None,
    dtype: str,
    device: str,
    objectives: Mapping[str, float],
    settings: dict[str, Any],
) -> dict[str, Any]:
    checked = validated(Settings, {"objectives": dict(objectives), **settings})
    names = set(checked.objectives)
    if "instructions" in names and not tasks:
        raise UserError("tasks: the objective `instructions` needs some; `preface tasks` lists those that ship")
    if tasks and "instructions" not in names:
        raise UserError("tasks: given, but no objective is `instructions`; add it, as in `--objective instructions`")
    if names - {"instructions"} and tokens is None:
        raise UserError("tokens: none given; `preface tokenize TEXT… --out FOLDER` makes such a folder")
    return {
        "tokens_folder": None if tokens is None else str(Path(tokens).resolve()),
        "tasks": list(tasks),
        "keep_out": list(keep_out),
        "probe_tasks": list(probes),
        "data": None if data is None else str(Path(data).resolve()),
        "dtype": dtype,
        "device": device,
        "settings": checked.model_dump(mode="json"),
        "versions": installed_versions(),
        "command": ["preface", *sys.argv[1:]],
    }


def _begin(folder: Path, asked: dict[str, Any]) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        unfinished = (folder / RECORD).exists() and not (folder / "model.safetensors").exists()
        hint = f"`--resume {folder}` goes on with it, or " if unfinished else ""
        raise UserError(f"{folder}: is there already and not empty; {hint}give another --out")
    return _go(folder, asked)


def _go(folder: Path, record: dict[str, Any]) -> Path:
    """Build everything that the record asks for, train, export."""
    settings = Settings(**record["settings"])
    accelerator, device = _devices(record["device"], settings.batch_size)
    dtype = dtype_named(record["dtype"], device)
    tokens = None if record["tokens_folder"] is None else Tokens.open(record["tokens_folder"])
    model, tokenizer = _model(record, tokens, settings.seed)
    objectives, validation, left_out = _objectives(record, settings, tokens, tokenizer)
    for task, split in product(record["probe_tasks"], ("train", "validation")):
        load_split(task, split, data=record["data"])  # what is not there should be missed now, not after hours
    record |= {
        "name": folder.name,
        "dtype": str(dtype).removeprefix("torch."),
        "ran_on": str(device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seen_tasks": sorted({*getattr(model.config, SEEN, []), *left_out}),
        "left_out_examples": left_out,
        "ancestors": _ancestors(record["began_from"]),
        "config": {name: getattr(model.config, name, None) for name in _SHOWN},
    }
    setattr(model.config, SEEN, record["seen_tasks"])
    if tokens is not None:
        record["text"] = _checked_text(tokens, record, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")
    loop = Pretraining(
        folder,
        model,
        plain_pieces(tokenizer, int(model.config.vocab_size)),
        settings,
        Mixture(objectives, record["settings"]["objectives"], settings.seed),
        validation,
        accelerator,
        device,
        dtype,
        _prober(folder, tokenizer, record["probe_tasks"], record["data"]),
    )
    with locked(folder) if accelerator.is_main_process else nullcontext():
        state = loop.run(f"`preface {record['verb']} --resume {folder}` goes on")
    loop.export(folder)
    if accelerator.is_main_process:
        tokenizer.save_pretrained(folder)
        record["result"] = {
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 1),
            "training_seconds": round(state.training_seconds, 1),
            "tokens_per_second": round(state.tokens / max(state.training_seconds, 1e-9), 1),
            "validation": state.validation,
            "probes": state.probes,
        }
        write_card(folder, record)
        write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")
        shutil.rmtree(folder / "checkpoints")
    accelerator.wait_for_everyone()
    return folder


def _devices(name: str, batch_size: int) -> tuple[Accelerator, torch.device]:
    """The processes, and this one's device. Raises UserError if they cannot share the batch evenly."""
    device = device_named(name)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if batch_size % accelerator.num_processes:
        raise UserError(
            f"batch-size: {batch_size} sequences cannot be shared evenly by {accelerator.num_processes} processes"
        )
    return accelerator, device if accelerator.num_processes == 1 else accelerator.device


def _ancestors(checkpoint: str | None) -> list[dict[str, Any]]:
    """What a checkpoint made by Preface was trained on, and those that it came from, oldest first."""
    path = Path(checkpoint or "") / RECORD
    if checkpoint is None or not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    own = {name: record.get(name) for name in ("name", "verb", "began_from", "settings", "tasks", "text")}
    return [*record.get("ancestors", []), own | {"tokens": record["result"]["tokens"]}]


def _checked_text(tokens: Tokens, record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the text is, for record and card. Raises UserError if it is not what was begun with, or not kept clean."""
    asked, digest = tokens.card["asked"], tokens.card["sha256"]
    if "text" in record and record["text"]["sha256"] != digest:
        raise UserError(f"{tokens.folder}: other tokens than {folder} was begun with; start anew")
    if missing := set(record["keep_out"]) - set(asked["keep_out"]):
        raise UserError(
            f"keep-out: {', '.join(sorted(missing))} may be in the text of {tokens.folder}; make it anew with "
            "`preface tokenize … --keep-out`"
        )
    return {
        # of a path, the folder too: `train.jsonl` alone says little
        "sources": ["/".join(Path(source["name"]).parts[-2:]) for source in tokens.card["sources"]],
        "keep_out": asked["keep_out"],
        "dropped": tokens.card["dropped"],
        "tokens": tokens.card["tokens"],
        "sha256": digest,
    }


_SHOWN = (
    "d_model", "d_kv", "num_heads", "d_ff", "num_layers", "num_decoder_layers", "feed_forward_proj", "vocab_size",
    "scale_decoder_outputs", "relative_attention_num_buckets", "relative_attention_max_distance",
)  # fmt: skip


def _model(
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


def _objectives(
    record: Mapping[str, Any], settings: Settings, tokens: Tokens | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[ObjectiveName, Objective], list[Batch], dict[str, int]]:
    """The objectives, the batches to look at as training goes on, and how many examples were kept out by task."""
    length, seed = settings.input_length, settings.seed
    found: dict[ObjectiveName, Objective] = {}
    looks: list[Objective] = []
    left_out: dict[str, int] = {}
    for name in settings.objectives:
        if name == "instructions":
            kept_out = KeepOut.of(record["keep_out"], record["data"])
            train, left_out = _instructions(record, "train", length, kept_out)
            found[name] = Instructions(train, tokenizer, length, seed)
            if held_out := _instructions(record, "validation", length, None)[0]:
                looks.append(Instructions(held_out, tokenizer, length, 0))
        else:
            assert tokens is not None
            kind = SpanCorruption if name == "span-corruption" else PrefixLM
            found[name] = kind(tokens.train, tokenizer, length, seed)
    if tokens is not None and len(tokens.validation) < 3 * length:
        warn(f"{tokens.folder}: {len(tokens.validation):,} tokens are held out, too few to look at as training goes on")
    elif tokens is not None:  # whatever a backbone learns, it is looked at in both ways
        if span_lengths(length).spans <= len(sentinels(tokenizer)):
            looks.append(SpanCorruption(tokens.validation, tokenizer, length, 0))
        looks.append(PrefixLM(tokens.validation, tokenizer, length, 0))
    batches = [look.batch(step, VALIDATION_ROWS) for look in looks for step in range(VALIDATION_BATCHES)]
    return found, batches, left_out


def _instructions(
    record: Mapping[str, Any], split: SplitName, length: int, kept_out: KeepOut | None
) -> tuple[dict[str, list[list[Example]]], dict[str, int]]:
    """The examples of each task that has the split, a list a template, and how many rows were left out by task."""
    found: dict[str, list[list[Example]]] = {}
    left_out: dict[str, int] = {}
    for name in record["tasks"]:
        task = load_task(name)
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


def plain_pieces(tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
    """`[vocabulary]`, True for pieces of text: neither a sentinel nor `</s>`."""
    plain = torch.ones(size, dtype=torch.bool)
    plain[torch.from_numpy(sentinels(tokenizer))] = False
    plain[tokenizer.eos_token_id] = False  # type: ignore[index]
    return plain


def _prober(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], data: str | None
) -> Callable[[PreTrainedModel, int], dict[str, float]] | None:
    if not tasks:
        return None

    def look(model: PreTrainedModel, step: int) -> dict[str, float]:
        return {
            task: probe(model, tokenizer, task, folder / "probes" / f"{_plain_name(task)}-{step:07d}", data)
            for task in tasks
        }

    return look


def _plain_name(task: str) -> str:
    """A folder's name for a task, which may be a path."""
    stem = Path(task).stem
    return stem if stem == task else f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"

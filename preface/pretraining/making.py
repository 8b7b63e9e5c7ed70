"""Make a backbone: from scratch, or from another one."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from preface.backbones.base import SEEN
from preface.backbones.load import resolved
from preface.backbones.pieces import pieces_of
from preface.errors import UserError
from preface.options import divided, validated
from preface.pretraining.architecture import load_architecture
from preface.pretraining.building import (
    RECORD,
    build_data,
    build_model,
    check_probes,
    checked_text,
    described,
    machine_of,
    plain_pieces,
    prober,
)
from preface.pretraining.card import write_card
from preface.pretraining.record import MakingRecord
from preface.pretraining.settings import MakingOptions, ObjectiveName, Settings
from preface.pretraining.tokens import Tokens
from preface.pretraining.weights import Losses, Weights
from preface.records.atomic import write_atomically, written_by_others
from preface.records.lock import LOCK
from preface.records.results import installed_versions
from preface.terminal.command import command_line
from preface.tuning.loop import CHECKPOINTS, Loop, Position
from preface.tuning.processes import Processes


def pretrain(
    tokens: str | Path,
    out: str | Path,
    *,
    architecture: str | Path | None = None,
    numbers: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Train a T5 from scratch.

    Args:
        tokens: a folder that `tokenize` made; its tokenizer becomes the backbone's.
        out: the backbone's folder, which Transformers loads. An unfinished one is resumed with `resume`.
        architecture: a shipped shape (`1m`, `4m`, `11m`, `30m`) or a YAML; `numbers` are fields of `Architecture`
            that win over it.
        options: fields of `preface.pretraining.settings.MakingOptions`:

            - `tasks`: what instructions are made of; examples whose text is an evaluation input of `keep_out` are left
              out;
            - `probes`: tasks on which a small prefix is tuned as training goes on;
            - `data`: folder with the data files of shipped tasks (default: the environment's PREFACE_DATA);
            - `dtype`: what the model computes in; weights and optimizer are float32 always; `device`;

            and of `preface.pretraining.settings.Settings`: `minutes`, `steps` or `budget_tokens`, `learning_rate`, …;
            `objectives` are the weights of `span-corruption` (default: it alone), `prefix-lm`, `instructions`.

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C; `resume` goes on.
    """
    shape = load_architecture(architecture, **(numbers or {}))
    record = _configuration({"tokens": tokens, **options}, "span-corruption")
    record |= {"verb": "pretrain", "architecture": shape.model_dump(mode="json"), "began_from": None}
    return _begin(Path(out), record)


def adapt(checkpoint: str | Path, out: str | Path, **options: Any) -> Path:
    """Train all weights of a checkpoint on: LM adaptation (Lester et al. 2021, section 3.2), more span corruption,
    instruction tuning (Wei et al. 2022), full tuning on one task, or a mixture. A decoder-only model learns text as a
    language model does (`prefix-lm`, where each piece follows from those before it), and instructions.

    Args:
        checkpoint: an embedded backbone, a folder, or a name on the Hugging Face hub.
        out: as for `pretrain`.
        options: as for `pretrain`; `tokens`, a folder that `tokenize` made with the checkpoint's tokenizer, is not
            needed for instructions alone; `objectives` is `prefix-lm` by default.

    Raises as `pretrain` does.
    """
    record = _configuration(options, "prefix-lm")
    record |= {"verb": "adapt", "architecture": None, "began_from": resolved(checkpoint)}
    return _begin(Path(out), record)


def resume(folder: str | Path, device: str | None = None) -> Path:
    """Go on with an interrupted `pretrain` or `adapt`; all else comes from its folder."""
    folder = Path(folder)
    record = _unfinished(folder)
    return _go(folder, record | {"device": device or record["device"]}, _unfinished)


def _unfinished(folder: Path) -> dict[str, Any]:
    """The record of an interrupted training. Raises UserError if there is none in the folder, or of a finished one."""
    file = folder / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: nothing to resume (no readable {RECORD} there)") from error
    MakingRecord.of(record, file)
    if "result" in record:
        raise UserError(f"{folder}: finished already; it loads as a backbone")
    return dict(record)


def _configuration(options: Mapping[str, Any], objective: ObjectiveName) -> dict[str, Any]:
    """What the record says of how a backbone is made; `objective` alone where none is given. Raises UserError."""
    making_fields, settings_fields = divided(options, MakingOptions, Settings)
    making = validated(MakingOptions, making_fields)
    objectives = settings_fields.pop("objectives", None) or {objective: 1}
    settings = validated(Settings, {"objectives": objectives, **settings_fields})
    names = set(settings.objectives)
    if "instructions" in names and not making.tasks:
        raise UserError("tasks: the objective `instructions` needs some; `preface tasks` lists those that ship")
    if making.tasks and "instructions" not in names:
        raise UserError("tasks: given, but no objective is `instructions`; add it, as in `--objective instructions`")
    if names - {"instructions"} and making.tokens is None:
        raise UserError("tokens: none given; `preface tokenize TEXT… --out FOLDER` makes such a folder")
    return {
        "tokens_folder": making.tokens and str(making.tokens.resolve()),
        "tasks": list(making.tasks),
        "keep_out": list(making.keep_out),
        "probe_tasks": list(making.probes),
        "data": making.data and str(making.data.resolve()),
        "dtype": making.dtype,
        "device": making.device,
        "settings": settings.model_dump(mode="json"),
        "versions": installed_versions(),
        "command": command_line(),
    }


def _begin(folder: Path, record: dict[str, Any]) -> Path:
    _check_free(folder)
    return _go(folder, record, _check_free)


def _check_free(folder: Path) -> None:
    # a lock may be left of a process that wrote nothing else
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        unfinished = (folder / RECORD).exists() and not (folder / "model.safetensors").exists()
        hint = f"`--resume {shlex.quote(str(folder))}` goes on with it, or " if unfinished else ""
        raise UserError(f"{folder}: is there already and not empty; {hint}give another --out")


def _go(folder: Path, record: dict[str, Any], check: Callable[[Path], object]) -> Path:
    """Build everything that the record names, train, export.

    `check` raises UserError where the folder is no longer as it was: another process may have been at work there while
    this one was building.
    """
    settings = Settings(**record["settings"])
    machine = machine_of(record["device"], record["dtype"], settings.batch_size)
    text = None if record["tokens_folder"] is None else Tokens.open(record["tokens_folder"])
    model, tokenizer = build_model(record, text, settings.seed)
    pieces = pieces_of(record["began_from"] or folder.name, model.config, tokenizer)
    data = build_data(record, settings, text, pieces)
    check_probes(record)
    record |= described(record, folder, machine, model, data.left_out)
    if text is not None:
        record["text"] = checked_text(text, record, folder)
    setattr(model.config, SEEN, record["seen_tasks"])
    losses = Losses(model, plain_pieces(tokenizer, int(model.config.vocab_size)))
    probe = prober(folder, tokenizer, record["probe_tasks"], record["data"])
    weights = Weights(losses, settings, data.mixture, machine, data.validation, probe)
    processes = Processes(machine.accelerator)
    try:
        with processes.locked(folder):
            if processes.is_main:
                check(folder)
                _write_record(folder, record)
            processes.wait()
            at = _loop(folder, record, weights, processes).run()
            weights.export(folder)
            if processes.is_main:
                with written_by_others(folder):
                    tokenizer.save_pretrained(folder)
                _finish(folder, record | {"result": _result(at, weights)})
    finally:
        data.mixture.close()
    processes.wait()
    return folder


def _loop(folder: Path, record: Mapping[str, Any], weights: Weights, processes: Processes) -> Loop:
    settings = weights.settings
    return Loop(
        folder,
        weights,
        settings.budget,
        f"preface {record['verb']} --resume {shlex.quote(str(folder))}",
        checkpoint_seconds=settings.checkpoint_seconds,
        keep=settings.keep,
        processes=processes,
    )


def _result(at: Position, weights: Weights) -> dict[str, Any]:
    return {
        "steps": at.steps,
        "tokens": at.tokens,
        "seconds": round(at.seconds, 1),
        "training_seconds": round(at.training_seconds, 1),
        "tokens_per_second": round(at.tokens / max(at.training_seconds, 1e-9), 1),
        "validation": weights.validation,
        "probes": weights.probes,
    }


def _finish(folder: Path, record: dict[str, Any]) -> None:
    """Write card and record, which makes the backbone a finished one; no checkpoint is needed any more."""
    write_card(folder, record)
    _write_record(folder, record)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")

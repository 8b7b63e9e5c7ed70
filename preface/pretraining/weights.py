"""All weights of a model, trained on a mixture of objectives."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from preface.backbones.base import set_dropout
from preface.errors import UserError
from preface.pretraining.mixture import IGNORED, Batch, Mixture, ObjectiveName
from preface.pretraining.optimizer import build_optimizer, restore, state_tensors
from preface.pretraining.settings import Settings
from preface.records.atomic import written_by_others
from preface.tuning.loop import Evaluation, Position
from preface.tuning.schedules import rate_share


@dataclass(frozen=True)
class Machine:
    """Where a model is trained."""

    accelerator: Accelerator
    """The processes that share the work."""
    device: torch.device
    """This one's."""
    dtype: torch.dtype
    """What the model computes in; what is trained is float32 always."""


class Losses(nn.Module):
    """A model and its loss in one forward, so that both are compiled, and averaged over processes, together."""

    def __init__(self, model: PreTrainedModel, plain: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("plain", plain, persistent=False)
        """`[vocabulary]`, True for pieces of text: neither a sentinel nor `</s>`."""

    def forward(self, inputs: Tensor, mask: Tensor | None, labels: Tensor) -> Tensor:
        """`[loss, labels, loss of text, labels of text]`: sums over the batch, padding left out."""
        if self.model.config.is_encoder_decoder:
            before = self.model._shift_right(labels)  # type: ignore[operator]
            logits = self.model(input_ids=inputs, attention_mask=mask, decoder_input_ids=before, use_cache=False).logits
        else:
            logits = self._going_on(inputs, mask, labels)
        each = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
        real = labels.flatten() != IGNORED
        text = real & self.plain[labels.flatten().clamp(min=0)]  # type: ignore[index]
        return torch.stack([each.sum(), real.sum(), (each * text).sum(), text.sum()])

    def _going_on(self, inputs: Tensor, mask: Tensor | None, labels: Tensor) -> Tensor:
        """A decoder-only model's, `[B, S, vocabulary]`: inputs, padded on the left, and labels are one text."""
        seen = torch.cat([torch.ones_like(inputs) if mask is None else mask, (labels != IGNORED).long()], dim=1)
        ids = torch.cat([inputs, labels.clamp(min=0)], dim=1)
        places = (seen.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=ids, attention_mask=seen, position_ids=places, use_cache=False).logits
        return logits[:, inputs.shape[1] - 1 : -1]


class Weights:
    """What a loop trains in `pretrain` and `adapt`.

    Weights and optimizer are float32 always. Where the model computes in bfloat16 it holds a rounded copy of them,
    which is made anew after each step: no autocast, so no weight is converted twice.
    """

    title = "pre-training"
    finished = False
    """The budget alone decides."""

    def __init__(
        self,
        losses: Losses,
        settings: Settings,
        mixture: Mixture,
        machine: Machine,
        validation: Sequence[Batch] = (),
        probe: Callable[[PreTrainedModel, int], dict[str, float]] | None = None,
    ) -> None:
        """`validation`: held-out batches; `probe`: what prompts can do with the model at a step."""
        self.settings, self.mixture = settings, mixture
        self.accelerator, self.device = machine.accelerator, machine.device
        losses.to(self.device, torch.float32)
        self.model = losses.model.requires_grad_(True)
        set_dropout(self.model, settings.dropout)
        self.masters = [parameter.detach().clone() for parameter in self.model.parameters()]
        losses.to(machine.dtype)
        self.weights: list[Tensor] = list(self.model.parameters())
        self.names = [name for name, _ in self.model.named_parameters()]
        self.optimizer = build_optimizer(settings.optimizer, self.masters, settings.weight_decay)
        compiled: Any = torch.compile(losses) if self.device.type == "cuda" else losses
        several = self.accelerator.num_processes > 1
        self.losses = self.accelerator.prepare_model(compiled) if several else compiled
        self.sums: dict[ObjectiveName, Tensor] = {}
        """Losses since the last line, by objective; of this process alone."""
        self.note = ""
        self.validation: dict[str, float | None] = {}
        self.probes: dict[str, float] = {}
        """The last of each."""
        self.held_out = [batch.to(self.device) for batch in validation]
        self.probe = probe
        evaluations = [Evaluation("validation", settings.validate_every, self._validate)]
        if probe is not None:
            evaluations.append(Evaluation("probes", settings.probe_every, self._probe, long=True))
        self.evaluations: Sequence[Evaluation] = evaluations

    def step(self, number: int, done: float) -> int:
        """One update of all weights; returns the tokens of all processes."""
        settings, accelerator = self.settings, self.accelerator
        whole = self.mixture.batch(number, settings.batch_size)
        own = whole.rows(slice(accelerator.process_index, None, accelerator.num_processes)).to(self.device)
        # each process divides by the labels of all, and gradients are averaged over processes
        labels = (whole.labels != IGNORED).sum().item() / accelerator.num_processes
        self.model.train()
        if settings.dropout:  # like the batch, what is dropped follows from seed, step and process
            torch.manual_seed(hash((settings.seed, number, accelerator.process_index)))
        sums = self._gradients(own, labels)
        self.sums[whole.objective] = self.sums.get(whole.objective, torch.zeros_like(sums)) + sums
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.masters, settings.clip, foreach=True)
        self.optimizer.step(settings.learning_rate * rate_share(settings.schedule, number, done, settings.warmup))
        self._publish()
        for master in self.masters:
            master.grad = None
        return whole.tokens

    def _gradients(self, batch: Batch, labels: float) -> Tensor:
        """Add up the gradients of `loss / labels` in the masters, micro-batch by micro-batch; returns the sums of
        `Losses`."""
        size = self.settings.micro_batch_size or len(batch.inputs)
        sums = torch.zeros(4, device=self.device)
        for start in range(0, len(batch.inputs), size):
            part = batch.rows(slice(start, start + size))
            measured = self.losses(part.inputs, part.mask, part.labels)
            (measured[0] / labels).backward()
            sums += measured.detach()
            for master, weight in zip(self.masters, self.weights, strict=True):
                assert weight.grad is not None
                if master.grad is None:
                    master.grad = weight.grad.float()
                else:
                    master.grad += weight.grad
                weight.grad = None
        return sums

    def _publish(self) -> None:
        """Round the float32 weights into the model that computes."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)

    def log(self, at: Position) -> dict[str, Any] | None:
        """Losses since the last line, apart for each objective, and for text apart from sentinels."""
        shown = {}
        for name, sums in self.sums.items():
            loss, labels, text_loss, text = self.accelerator.reduce(sums, "sum").tolist()
            shown[name] = {"loss": _rounded(loss / labels), "text_loss": _rounded(text_loss / max(text, 1))}
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of {name} is not finite at step {at.steps:,}; start anew with a lower "
                    "--learning-rate (the last checkpoint is kept)"
                )
        self.sums = {}
        if not shown:
            return None
        rate = at.tokens / max(at.training_seconds, 1e-9)
        self.note = f"{rate:,.0f} tokens/s · " + " ".join(f"{name} {line['loss']:.2f}" for name, line in shown.items())
        return _head(at) | {"train": shown, "tokens_per_second": round(rate, 1)}

    @torch.no_grad()
    def _validate(self, at: Position) -> list[dict[str, Any]]:
        """Losses on held-out documents, by objective; `noise`: of hidden text without sentinels."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        for batch in self.held_out:
            measured = self.losses(batch.inputs, batch.mask, batch.labels)
            sums[batch.objective] = sums.get(batch.objective, torch.zeros_like(measured)) + measured
        if not sums:
            return []
        losses: dict[str, float | None] = {}
        for name, (loss, labels, text_loss, text) in ((name, value.tolist()) for name, value in sums.items()):
            losses[name] = _rounded(loss / labels)
            if name == "span-corruption":
                losses["noise"] = _rounded(text_loss / max(text, 1))
        self.validation = losses
        return [_head(at) | {"validation": losses}]

    def _probe(self, at: Position) -> list[dict[str, Any]]:
        """What prompts can do with the weights as they are."""
        if self.probe is None or not self.accelerator.is_main_process:
            return []
        self.probes = self.probe(self.model, at.steps)
        return [_head(at) | {"probe": self.probes}]

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"weights.{name}": master for name, master in zip(self.names, self.masters, strict=True)}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state_tensors(self.optimizer).items()}
        tensors |= {f"sums.{name}": self.accelerator.reduce(sums, "sum") for name, sums in self.sums.items()}
        return tensors

    def record(self) -> dict[str, Any]:
        return {"validation": self.validation, "probes": self.probes}

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.validation, self.probes = record["validation"], record["probes"]
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[f"weights.{name}"])
        self._publish()
        restore(self.optimizer, _under("optimizer.", tensors))
        # the sums of all processes are the first one's: the others begin anew
        part = float(self.accelerator.is_main_process)
        self.sums = {name: sums.to(self.device) * part for name, sums in _under("sums.", tensors).items()}  # type: ignore[misc]

    def export(self, folder: Path) -> None:
        """Write the model in the hub's format, its weights as bfloat16."""
        if not self.accelerator.is_main_process:
            return
        transformers_logging.disable_progress_bar()
        temporary = folder / ".export"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with written_by_others(folder):
                self.model.bfloat16().save_pretrained(temporary)
            for path in temporary.iterdir():
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _head(at: Position) -> dict[str, Any]:
    """What each line of `metrics.jsonl` begins with."""
    return {"step": at.steps, "tokens": at.tokens, "seconds": round(at.seconds, 2)}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None  # JSON knows no NaN

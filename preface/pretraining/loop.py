"""The pre-training loop: all weights of a model on a mixture of objectives, and everything that is kept of it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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
from preface.pretraining.optimizer import build_optimizer, rate_share, restore, state_tensors
from preface.pretraining.settings import Settings
from preface.records import checkpoint
from preface.records.metrics import METRICS, append_metrics, cut_metrics
from preface.terminal.interrupt import Interrupted, stop_requested
from preface.terminal.progress import progress, say, warn

LOG_EVERY = 10
"""Steps between lines in `metrics.jsonl`."""


@dataclass
class _Progress:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Of all work."""
    training_seconds: float = 0.0
    """Of steps alone."""
    metrics_bytes: int = 0
    """Length of `metrics.jsonl`: what came after is written again."""
    validation: dict[str, float | None] = field(default_factory=dict)
    """The last validation losses."""
    probes: dict[str, float] = field(default_factory=dict)
    probed: int = 0
    """The last development scores of probes, and their step."""


class Losses(nn.Module):
    """A model and its loss in one forward, so that both are compiled, and averaged over processes, together."""

    def __init__(self, model: PreTrainedModel, plain: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("plain", plain, persistent=False)
        """`[vocabulary]`, True for pieces of text: neither a sentinel nor `</s>`."""

    def forward(self, inputs: Tensor, mask: Tensor | None, labels: Tensor) -> Tensor:
        """`[loss, labels, loss of text, labels of text]`: sums over the batch, padding left out."""
        before = self.model._shift_right(labels)  # type: ignore[operator]
        logits = self.model(input_ids=inputs, attention_mask=mask, decoder_input_ids=before, use_cache=False).logits
        each = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
        real = labels.flatten() != IGNORED
        text = real & self.plain[labels.flatten().clamp(min=0)]  # type: ignore[index]
        return torch.stack([each.sum(), real.sum(), (each * text).sum(), text.sum()])


class Pretraining:
    """The loop and everything that it carries from step to step.

    Weights and optimizer are float32 always. Where the model computes in bfloat16 it holds a rounded copy of them,
    which is made anew after each step: no autocast, so no weight is converted twice.
    """

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        plain: Tensor,
        settings: Settings,
        mixture: Mixture,
        validation: Sequence[Batch],
        accelerator: Accelerator,
        device: torch.device,
        dtype: torch.dtype,
        probe: Callable[[PreTrainedModel, int], dict[str, float]] | None = None,
    ) -> None:
        self.folder, self.settings, self.mixture, self.probe = folder, settings, mixture, probe
        self.accelerator, self.device = accelerator, device
        self.model = model.to(device, torch.float32).requires_grad_(True)  # type: ignore[arg-type]
        set_dropout(self.model, settings.dropout)
        self.masters = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.model.to(dtype)
        self.weights = list(self.model.parameters())
        self.names = [name for name, _ in self.model.named_parameters()]
        self.optimizer = build_optimizer(settings.optimizer, self.masters, settings.weight_decay)
        losses: nn.Module = Losses(self.model, plain.to(self.device))
        if self.device.type == "cuda":
            losses = torch.compile(losses)  # type: ignore[assignment]
        self.losses = accelerator.prepare_model(losses) if accelerator.num_processes > 1 else losses
        self.validation = [batch.to(self.device) for batch in validation]
        self.state = _Progress()
        self.sums: dict[ObjectiveName, Tensor] = {}
        self.saved_at = time.monotonic()

    @property
    def is_main(self) -> bool:
        """Of several processes, the one that writes."""
        return self.accelerator.is_main_process

    def run(self, resume_hint: str) -> _Progress:
        """Train, or go on training, to the end of the budget; `resume_hint` says how to go on after Ctrl-C."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            try:
                self._run()
            except Interrupted as stopped:
                raise Interrupted(f"stopped after step {self.state.step:,}; {resume_hint}") from stopped
            finally:
                self.mixture.close()
        return self.state

    def _run(self) -> None:
        self._restore()
        state, settings = self.state, self.settings
        began = time.monotonic() - state.seconds
        total, unit = settings.budget
        with progress("pre-training", total, unit, self._used()) as advance, stop_requested() as stop:
            if state.step == 0:
                self._look()
            done = settings.done(state.step, state.tokens, state.seconds)
            while done < 1:
                before, step_began = self._used(), time.monotonic()
                self._step(done)
                if state.step % LOG_EVERY == 0:
                    self._log(advance)
                state.training_seconds += time.monotonic() - step_began
                if state.step % settings.validate_every == 0:
                    self._look()
                if self.probe is not None and state.step % settings.probe_every == 0:
                    self._save()
                    self._probe()
                state.seconds = time.monotonic() - began
                advance(self._used() - before)
                due = time.monotonic() - self.saved_at > settings.checkpoint_seconds
                done, stopped, due_somewhere = self._agreed(
                    settings.done(state.step, state.tokens, state.seconds), float(stop()), float(due)
                )
                if stopped or due_somewhere:
                    self._save()
                if stopped:
                    raise Interrupted
            self._save()  # before the last looks: killed among them, they are taken again
            self._log()
            if state.step % settings.validate_every:
                self._look()
            self._probe()
            state.seconds = time.monotonic() - began

    def _step(self, done: float) -> None:
        """One update of all weights."""
        state, settings, accelerator = self.state, self.settings, self.accelerator
        whole = self.mixture.batch(state.step, settings.batch_size)
        own = whole.rows(slice(accelerator.process_index, None, accelerator.num_processes)).to(self.device)
        size = settings.micro_batch_size or len(own.inputs)
        # each process divides by the labels of all, and gradients are averaged over processes
        labels = (whole.labels != IGNORED).sum().item() / accelerator.num_processes
        self.model.train()
        if settings.dropout:  # like the batch, what is dropped follows from seed, step and process
            torch.manual_seed(hash((settings.seed, state.step, accelerator.process_index)))
        sums = torch.zeros(4, device=self.device)
        for start in range(0, len(own.inputs), size):
            part = own.rows(slice(start, start + size))
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
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.masters, settings.clip, foreach=True)
        self.optimizer.step(settings.learning_rate * rate_share(settings.schedule, state.step, done, settings.warmup))
        self._publish()
        for master in self.masters:
            master.grad = None
        self.sums[whole.objective] = self.sums.get(whole.objective, torch.zeros_like(sums)) + sums
        state.step += 1
        state.tokens += whole.tokens

    def _publish(self) -> None:
        """Round the float32 weights into the model that computes."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)

    def _log(self, advance: Callable[..., None] | None = None) -> None:
        """Losses since the last line, apart for each objective, and for text apart from sentinels."""
        state, shown = self.state, {}
        for name, sums in self.sums.items():
            loss, labels, text_loss, text = self.accelerator.reduce(sums, "sum").tolist()
            shown[name] = {"loss": _rounded(loss / labels), "text_loss": _rounded(text_loss / max(text, 1))}
            if not math.isfinite(loss):
                raise UserError(
                    f"{self.folder}: the loss of {name} is not finite at step {state.step:,}; start anew with a lower "
                    "--learning-rate (the last checkpoint is kept)"
                )
        self.sums = {}
        if not shown:
            return
        rate = state.tokens / max(state.training_seconds, 1e-9)
        if advance:
            advance(0, note=f"{rate:,.0f} tokens/s · " + " ".join(f"{k} {v['loss']:.2f}" for k, v in shown.items()))
        self._write({"train": shown, "tokens_per_second": round(rate, 1)})

    @torch.no_grad()
    def _look(self) -> None:
        """Losses on held-out documents."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        for batch in self.validation:
            measured = self.losses(batch.inputs, batch.mask, batch.labels)
            sums[batch.objective] = sums.get(batch.objective, torch.zeros_like(measured)) + measured
        losses: dict[str, float | None] = {}
        for name, (loss, labels, text_loss, text) in ((name, value.tolist()) for name, value in sums.items()):
            losses[name] = _rounded(loss / labels)
            if name == "span-corruption":
                losses["noise"] = _rounded(text_loss / max(text, 1))
        if losses:
            self.state.validation = losses
            self._write({"validation": losses})

    def _probe(self) -> None:
        """What prompts can do with the weights as they are, once for each step."""
        if self.probe is not None and self.is_main and self.state.probed < self.state.step:
            self.state.probes, self.state.probed = self.probe(self.model, self.state.step), self.state.step
            self._write({"probe": self.state.probes})
        self.accelerator.wait_for_everyone()

    def _write(self, line: dict[str, Any]) -> None:
        if not self.is_main:
            return
        state = self.state
        head = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 2)}
        state.metrics_bytes = append_metrics(self.folder, head | line)

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        sums = {name: self.accelerator.reduce(tensor, "sum") for name, tensor in self.sums.items()}
        if self.is_main:
            tensors = {f"weights.{name}": master.cpu() for name, master in zip(self.names, self.masters, strict=True)}
            tensors |= {f"optimizer.{name}": tensor.cpu() for name, tensor in state_tensors(self.optimizer).items()}
            tensors |= {f"sums.{name}": tensor.cpu() for name, tensor in sums.items()}
            checkpoint.save_state(
                self.folder / "checkpoints", self.state.step, tensors, asdict(self.state), self.settings.keep
            )
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        found = checkpoint.load_state(self.folder / "checkpoints") if self.is_main else None
        self.accelerator.wait_for_everyone()  # damaged checkpoints are removed by one process, then read by the others
        found = found if self.is_main else checkpoint.load_state(self.folder / "checkpoints")
        if found is None:
            if self.is_main:
                (self.folder / METRICS).unlink(missing_ok=True)
            return
        tensors, state, refused = found
        for line in refused:
            warn(f"{line}; the checkpoint before it is used")
        self.state = _Progress(**state)
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[f"weights.{name}"])
        self._publish()
        restore(self.optimizer, _under("optimizer.", tensors))
        # the sums of all processes are the first one's: the others begin anew
        part = float(self.is_main)
        self.sums = {name: tensor.to(self.device) * part for name, tensor in _under("sums.", tensors).items()}  # type: ignore[misc]
        if self.is_main:
            cut_metrics(self.folder, self.state.metrics_bytes)
            say(f"going on from step {self.state.step:,} ({self.state.tokens:,} tokens)")

    def _used(self) -> float:
        return self.settings.used(self.state.step, self.state.tokens, self.state.seconds)

    def _agreed(self, *values: float) -> list[float]:
        """Means over processes, so that all of them take the same turn."""
        if self.accelerator.num_processes == 1:
            return list(values)
        means: list[float] = self.accelerator.reduce(torch.tensor(values, device=self.device), "mean").tolist()
        return means

    def export(self, folder: Path) -> None:
        """Write the model in the hub's format, its weights as bfloat16."""
        if not self.is_main:
            return
        transformers_logging.disable_progress_bar()
        temporary = folder / ".export"
        shutil.rmtree(temporary, ignore_errors=True)
        self.model.to(torch.bfloat16).save_pretrained(temporary)
        for path in temporary.iterdir():
            path.replace(folder / path.name)
        temporary.rmdir()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None  # JSON knows no NaN

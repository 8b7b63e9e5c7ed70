"""The training loop: a population of prompts through one frozen forward, and everything that is kept of it."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.labelling.metric import metric
from preface.methods import Method, PromptModule
from preface.methods.init import Initializer
from preface.prompts import Prompts
from preface.records import checkpoint
from preface.records.card import Member
from preface.records.metrics import METRICS, append_metrics, cut_metrics
from preface.records.run import RunRecord
from preface.tasks import Split, render
from preface.terminal.interrupt import Interrupted, stop_requested
from preface.terminal.progress import progress, say, warn, warn_skipped
from preface.tuning.finish import Outcome, best_of, finish
from preface.tuning.optimizers import schedule
from preface.tuning.recipe import Recipe
from preface.tuning.step import Step

LOG_EVERY = 10
"""Steps between lines in `metrics.jsonl`."""
CHECKPOINT_SECONDS = 30.0


@dataclass
class _Progress:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    seconds: float = 0.0
    metrics_bytes: int = 0
    """Length of `metrics.jsonl`: what came after is written again."""
    scores: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """Best score, its loss and its step, for each member."""
    stale: list[int] = field(default_factory=list)
    """Looks since the best, for each member."""
    active: list[bool] = field(default_factory=list)


class Population:
    """The loop and everything it carries from step to step."""

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        method: Method,
        recipe: Recipe,
        labels: LabelWords,
        training: Split,
        development: Split,
        metric: str = "accuracy",
    ) -> None:
        self.folder, self.backbone, self.labels = folder, backbone, labels
        self.record: RunRecord | None = None
        self.method, self.metric = method, metric
        words = {word: index for index, word in enumerate(labels.words)}
        ids, cut = render(backbone.tokenize, training.examples, recipe.max_input_tokens)
        dev_ids, dev_cut = render(backbone.tokenize, development.examples, recipe.max_input_tokens)
        lengths = [len(item) for item in ids]
        an_epoch = batching.epoch(lengths, recipe.seeds[0], 0, recipe.batch_size, recipe.token_budget)
        self.recipe = recipe = recipe.resolve(len(an_epoch))
        targets = labels.targets(str(e.label) for e in training.examples)
        self.dev_gold = torch.tensor([words[str(e.label)] for e in development.examples])
        self.cut = {"train": sum(cut), "validation": sum(dev_cut)}
        for name, count, split in (("train", sum(cut), training), ("validation", sum(dev_cut), development)):
            if count:
                warn(f"{count:,} of {len(split.examples):,} {name} inputs were cut to {recipe.max_input_tokens} tokens")

        # both splits may be drawn from the same file
        warn_skipped(training.task, list(dict.fromkeys([*training.skipped, *development.skipped])))

        examples = [(e.text, str(e.label)) for e in training.examples]
        initializer = Initializer.parse(method.init, labels.words, examples)
        size = len(recipe.members)
        self.module: PromptModule = method.build(backbone, initializer, [seed for _, seed in recipe.members])
        constant = self.module.leaves_reading
        if constant and recipe.dropout > 0:
            say("with dropout the encoder's states differ from step to step: they are not kept")
        assert recipe.steps is not None
        epochs = recipe.steps / len(an_epoch) * len(recipe.seeds)
        # in less than an epoch few inputs come twice
        inputs = Inputs(backbone, ids, keep=constant and recipe.dropout == 0 and epochs > 1)
        self.dev_inputs = Inputs(backbone, dev_ids, keep=constant)
        self.step = Step(
            backbone,
            self.module,
            inputs,
            targets,
            recipe.optimizer,
            recipe.weight_decay,
            recipe.clip,
            recipe.dropout,
            recipe.gradient_checkpointing,
        )
        self.parameters, self.optimizer = self.step.parameters, self.step.optimizer
        self.rates = [rate for rate, _ in recipe.members]
        assert recipe.steps is not None
        self.share = schedule(recipe.schedule, recipe.steps, recipe.warmup)
        self.best = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.state = _Progress(
            scores=[-1.0] * size,
            losses=[math.inf] * size,
            steps=[0] * size,
            stale=[0] * size,
            active=[True] * size,
        )
        self.saved_at = time.monotonic()

    def run(self, record: RunRecord) -> None:
        """Train, or go on training; `record` is the run's so far, to which the results are added."""
        self.record = record
        cuda = [self.backbone.device] if self.backbone.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            self._run()

    def _run(self) -> None:
        self._restore()
        recipe, state = self.recipe, self.state
        assert recipe.steps is not None
        assert recipe.evaluate_every is not None
        if state.step == 0:
            torch.manual_seed(recipe.seeds[0])  # for dropout alone
        orders = [
            batching.endless(self.step.inputs.lengths, seed, recipe.batch_size, recipe.token_budget, skip=state.step)
            for _, seed in recipe.members
        ]
        began = time.monotonic() - state.seconds
        size = len(recipe.members)
        title = f"{self.method.name} × {size}" if size > 1 else self.method.name
        with progress(title, recipe.steps, "steps", state.step) as advance, stop_requested() as stop:
            if state.step == 0:
                self._look()
            while state.step < recipe.steps and any(state.active):
                losses = self._step([next(order) for order in orders])
                state.step += 1
                state.seconds = time.monotonic() - began
                advance(1)
                if state.step % LOG_EVERY == 0 or state.step == recipe.steps:
                    self._log_losses(losses)
                if state.step % recipe.evaluate_every == 0 or state.step == recipe.steps:
                    self._look()
                    advance(0, note=f"dev {max(state.scores):.3f}")
                if stop():
                    self._save()
                    raise Interrupted(
                        f"stopped after step {state.step:,} of {recipe.steps:,}; "
                        f"`preface train --resume {self.folder}` goes on"
                    )
                if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self._save()
        self._finish()

    def _step(self, batches: list[list[int]]) -> Tensor:
        """One update of every active member on its own batch; returns losses `[P]` (0 where inactive)."""
        members = [member for member, active in enumerate(self.state.active) if active]
        share = self.share(self.state.step)
        losses = self.step([batches[member] for member in members], members, [rate * share for rate in self.rates])
        every = losses.new_zeros(len(self.recipe.members))
        return every.index_copy(0, self.backbone.send(torch.tensor(members)), losses)

    def _look(self) -> None:
        """Score every active member on the development split; remember its best; stop those that stand still."""
        state = self.state
        members = [member for member, active in enumerate(state.active) if active]
        if not members:  # the last of them has just diverged
            return
        with torch.no_grad():
            prompts = self.module()
        log_probabilities = self._scores(prompts.select(members))  # [active, N, C]
        for member, scores in zip(members, log_probabilities, strict=True):
            value, loss = self._score_and_loss(scores)
            shown = loss if math.isfinite(loss) else None  # JSON knows no NaN
            self._write_metrics({"step": state.step, "member": member, "dev_score": value, "dev_loss": shown})
            if not math.isfinite(loss):
                warn(f"{self._name(member)}: the development loss is not finite at step {state.step}; it stops there")
                state.active[member] = False
            elif (value, -loss) > (state.scores[member], -state.losses[member]):
                state.scores[member], state.losses[member], state.steps[member] = value, loss, state.step
                state.stale[member] = 0
                for name, parameter in self.parameters.items():
                    self.best[name][member] = parameter.detach()[member]
            else:
                state.stale[member] += 1
                if self.recipe.patience is not None and state.stale[member] >= self.recipe.patience:
                    state.active[member] = False

    def _scores(self, prompts: Prompts) -> Tensor:
        """Log-probabilities of the development rows under each prompt, `[P, N, C]`."""
        labeller = Labeller(self.backbone, prompts, self.labels)
        with suppress(torch.OutOfMemoryError):
            return labeller.label_each(self.dev_inputs)
        self.step.forget()
        return labeller.label_each(self.dev_inputs)

    def _score_and_loss(self, log_probabilities: Tensor) -> tuple[float, float]:
        """The task's metric, and the mean −log of the gold label's probability among the labels, of `[N, C]`."""
        words = self.labels.words
        gold = [words[label] for label in self.dev_gold.tolist()]
        predicted = [words[label] for label in log_probabilities.argmax(-1).tolist()]
        return metric(self.metric, gold, predicted), float(cross_entropy(log_probabilities, self.dev_gold))

    def _finish(self) -> None:
        """Hand every member's prompt, at its best, to what is kept of the run."""
        state, recipe = self.state, self.recipe
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
            prompts = self.module()
        members = [
            Member(index, rate, seed, state.scores[index], state.losses[index], state.steps[index])
            for index, (rate, seed) in enumerate(recipe.members)
        ]
        outcome = Outcome(
            members,
            prompts,
            predictions=self._scores(prompts.select([best_of(members).index]))[0],
            labels=self.labels,
            gold=self.dev_gold,
            counts=self.method.counts(self.backbone),
            cut_inputs=self.cut,
            steps=state.step,
            seconds=state.seconds,
        )
        assert self.record is not None
        finish(self.folder, self.record, outcome)

    def _name(self, member: int) -> str:
        rate, seed = self.recipe.members[member]
        return f"learning rate {rate:g}, seed {seed}"

    def _log_losses(self, losses: Tensor) -> None:
        values = losses.tolist()
        for member, value in enumerate(values):
            if self.state.active[member] and not math.isfinite(value):
                warn(f"{self._name(member)}: the loss is not finite at step {self.state.step}; it stops there")
                self.state.active[member] = False
        shown = [
            value if active and math.isfinite(value) else None
            for value, active in zip(values, self.state.active, strict=True)
        ]
        self._write_metrics({"step": self.state.step, "losses": shown, "seconds": round(self.state.seconds, 2)})

    def _write_metrics(self, line: dict[str, Any]) -> None:
        self.state.metrics_bytes = append_metrics(self.folder, line)

    def _save(self) -> None:
        tensors = {f"parameters.{name}": parameter.detach().cpu() for name, parameter in self.parameters.items()}
        tensors |= {f"buffers.{name}": buffer.cpu() for name, buffer in self.module.named_buffers()}
        tensors |= {f"best.{name}": tensor.cpu() for name, tensor in self.best.items()}
        tensors |= {f"optimizer.{name}": tensor.cpu() for name, tensor in self.optimizer.state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.backbone.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.backbone.device)
        checkpoint.save_state(self.folder / "checkpoints", self.state.step, tensors, asdict(self.state))
        self.saved_at = time.monotonic()

    def _restore(self) -> None:
        found = checkpoint.load_state(self.folder / "checkpoints")
        if found is None:
            (self.folder / METRICS).unlink(missing_ok=True)
            return
        tensors, state, refused = found
        for line in refused:
            warn(f"{line}; the checkpoint before it is used")
        self.state = _Progress(**state)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameters.{name}"])
                self.best[name].copy_(tensors[f"best.{name}"])
            for name, buffer in self.module.named_buffers():
                buffer.copy_(tensors[f"buffers.{name}"])
            for name, tensor in self.optimizer.state.items():
                tensor.copy_(tensors[f"optimizer.{name}"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self.backbone.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.backbone.device)
        cut_metrics(self.folder, self.state.metrics_bytes)
        say(f"going on from step {self.state.step:,} of {self.recipe.steps:,}")

"""A population of prompts: learning rates × seeds, trained side by side through one frozen forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.free_text import targets_of
from preface.labelling.labeller import Prediction
from preface.methods import Counts, Method, PromptModule
from preface.methods.init import Initializer
from preface.prompts import Prompts
from preface.records.card import Member
from preface.terminal.progress import say, warn
from preface.tuning.finish import Outcome, best_of
from preface.tuning.loop import Evaluation, Position, note_of
from preface.tuning.processes import Processes, Share
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Development, Judged, Rows
from preface.tuning.schedules import Budget, done_since, rate_share
from preface.tuning.standing import Standing
from preface.tuning.step import Step


class Population:
    """What a loop trains in `train`: prompts, each with its own rate, rows, scores and end."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        recipe: Recipe,
        rows: Rows,
        metric: str = "accuracy",
        processes: Processes | None = None,
    ) -> None:
        """`processes`: those that train it together; None: there is one."""
        an_epoch = rows.steps_an_epoch(recipe)
        self.recipe = recipe = recipe.resolve(an_epoch)
        assert recipe.steps is not None
        assert recipe.evaluate_every is not None
        self.backbone, self.method, self.rows, self.metric = backbone, method, rows, metric
        self.processes = processes or Processes()
        self.by_members = self.processes.by_members(len(recipe.members))
        """Whether each process trains members of its own, or its rows of every batch."""
        self.module = self._built()
        # in less than an epoch few inputs come twice
        again = recipe.steps / an_epoch * len(recipe.seeds) > 1
        self.update = self._update(keep=again)
        self.development = self._development()
        self.parameters = self.update.parameters
        self.best = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.states = [Standing() for _ in recipe.members]
        self.orders: list[Iterator[list[int]]] = []
        self.losses: Tensor | None = None
        """Of the last step, `[P]`, until they are logged."""
        self.device = backbone.device
        size = len(recipe.members)
        self.title = f"{method.name} × {size}" if size > 1 else method.name
        self.loss: float | None = None
        """The lowest of those logged last."""
        self.budget = Budget(recipe.steps)
        self.evaluations: Sequence[Evaluation] = [Evaluation("development", recipe.evaluate_every, self._evaluate)]

    def _built(self) -> PromptModule:
        """All prompts, each at its beginning."""
        return self._begun(self.rows.examples, [seed for _, seed in self.recipe.members])

    def _begun(self, examples: Sequence[tuple[str, str]], seeds: Sequence[int]) -> PromptModule:
        """A prompt for each seed, beginning from what these rows say."""
        initializer = Initializer.parse(self.method.init, self.rows.wanted.words, examples, self.rows.cue)
        return self.method.build(self.backbone, initializer, seeds)

    def _update(self, keep: bool) -> Step:
        """One step of all prompts; `keep`: read each input once, where prompts and dropout allow it."""
        recipe, constant = self.recipe, self.module.leaves_reading
        if constant and recipe.dropout > 0:
            say("with dropout what is read differs from step to step: it is not kept")
        keep = keep and constant and recipe.dropout == 0
        share = Share() if self.by_members else Share(self.processes, keep)
        return Step(
            self.backbone,
            self.module,
            self.processes.read_alike(Inputs(self.backbone, share.texts(self.rows.training), keep=keep)),
            targets_of(self.rows.wanted, self._prompts(), self.rows.answers),
            recipe.optimizer,
            recipe.weight_decay,
            recipe.clip,
            recipe.dropout,
            recipe.gradient_checkpointing,
            recipe.cuda_graphs,
            weights=self.rows.weights(recipe),
            of_task=self.rows.of_task,
            asked=self.rows.wanted,
            share=share,
        )

    def _development(self) -> Development:
        return Development(self.backbone, self.rows, self.metric, self.module.leaves_reading, self.processes)

    @property
    def names(self) -> list[str]:
        """What each member is called."""
        return [f"lr{rate:g}-seed{seed}" for rate, seed in self.recipe.members]

    @property
    def active(self) -> list[int]:
        """The members that are still trained."""
        return [member for member, state in enumerate(self.states) if state.active]

    @property
    def finished(self) -> bool:
        return not self.active

    @property
    def note(self) -> str:
        return note_of(self.loss, self.standing)

    @property
    def standing(self) -> str:
        """How well it does on rows that are not trained on, in a few words."""
        return f"dev {max(state.score for state in self.states):.3f}"

    def step(self, number: int, done: float) -> int:
        """One update of every active member on its own batch; returns 0, for nobody counts its tokens."""
        recipe, members = self.recipe, self.active
        assert recipe.steps is not None
        if number == 0:
            torch.manual_seed(recipe.seeds[0])  # for dropout alone
        if self.processes.count > 1:  # each drops others
            torch.manual_seed(hash((recipe.seeds[0], number, self.processes.index)))
        batches = self._batches(number)
        if self.by_members:
            members = [member for member in members if member in self.processes.mine(range(len(self.states)))]
        share = rate_share(recipe.schedule, number, done_since(recipe.warmup, number, recipe.steps), recipe.warmup)
        self.losses = torch.zeros(len(self.states), device=self.device)
        if members:
            own, rates = [batches[member] for member in members], [rate * share for rate, _ in recipe.members]
            self.losses[self.backbone.send(torch.tensor(members))] = self.update(own, members, rates)
        return 0

    def _batches(self, number: int) -> list[list[int]]:
        """Each member's batch for a step: its order of rows follows from its seed."""
        recipe = self.recipe
        if not self.orders:
            self.orders = [
                batching.endless(self.rows.lengths, seed, recipe.batch_size, recipe.token_budget, skip=number)
                for _, seed in recipe.members
            ]
        return [next(order) for order in self.orders]

    def log(self, at: Position) -> dict[str, Any] | None:
        """The losses of the last step, null where a member has stopped; one whose loss is not finite stops."""
        if self.losses is None or self.finished:
            return None
        losses = self.processes.total(self.losses) if self.by_members else self.losses
        values, self.losses = losses.tolist(), None
        for member in self.active:
            if not math.isfinite(values[member]):
                self._stop(member, f"the loss is not finite at step {at.steps}")
        pairs = zip(values, self.states, strict=True)
        shown = [value if state.active and math.isfinite(value) else None for value, state in pairs]
        self.loss = min((value for value in shown if value is not None), default=math.nan)
        return {"step": at.steps, "losses": shown, "seconds": round(at.seconds, 2)}

    def _evaluate(self, at: Position) -> Iterator[dict[str, Any]]:
        """Score every active member on the development rows; remember its best; stop those that stand still."""
        members = self.active
        if not members:  # the last of them has just diverged
            return
        for member, found in zip(members, self._judged(self._prompts().select(members)), strict=True):
            yield self._line(at, member, found.score, found.loss)
            self._judge(member, found.score, found.loss, at.steps)

    def _hand_over(self, tensors: Mapping[str, Tensor]) -> None:
        """Make whole what each process has trained for its own members."""
        if self.by_members:
            self.processes.hand_over(tensors)

    def _line(self, at: Position, member: int, score: float, loss: float) -> dict[str, Any]:
        """What `metrics.jsonl` says of a member's evaluation."""
        shown = loss if math.isfinite(loss) else None  # JSON knows no NaN
        return {"step": at.steps, "member": member, "dev_score": score, "dev_loss": shown}

    def _judge(self, member: int, score: float, loss: float, step: int) -> None:
        """Remember a member that is better than it was; stop one that stands still or has diverged."""
        if not math.isfinite(loss):
            self._stop(member, f"the development loss is not finite at step {step}")
        elif self.states[member].judge(score, loss, step, self.recipe.patience):
            for name, parameter in self.parameters.items():
                self.best[name][member] = parameter.detach()[member]

    def _stop(self, member: int, why: str) -> None:
        rate, seed = self.recipe.members[member]
        warn(f"learning rate {rate:g}, seed {seed}: {why}; it stops there")
        self.states[member].active = False

    @torch.no_grad()
    def _prompts(self) -> Prompts:
        """All P prompts as they are, those that other processes train among them."""
        self._hand_over(dict(self.module.named_parameters()))
        return self.module()

    def _judged(self, prompts: Prompts, of_each: Sequence[Sequence[int]] | None = None) -> list[Judged]:
        """How each prompt does on the development rows; or on some of them, `of_each`."""
        if self.processes.in_step:  # what another kind of processor rounds otherwise must not part them
            return self.processes.agreed(self.development.judge(prompts, of_each))
        with suppress(torch.OutOfMemoryError):
            return self.development.judge(prompts, of_each)
        self.update.forget()
        return self.development.judge(prompts, of_each)

    def outcome(self, at: Position) -> Outcome:
        """Every member as it was at its best, and what the best of them says of the development rows."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
        prompts = self._prompts()
        members = [
            Member(index, rate, seed, state.score, state.loss, state.step)
            for index, ((rate, seed), state) in enumerate(zip(self.recipe.members, self.states, strict=True))
        ]
        return Outcome(
            members,
            prompts,
            predictions=self._predictions(prompts, best_of(members).index),
            gold=[example.gold for example in self.rows.held_out],
            majority=self.rows.majority(self.metric),
            counts=self._counts(prompts),
            cut_inputs=self.rows.cut,
            steps=at.steps,
            seconds=at.seconds,
        )

    def _predictions(self, prompts: Prompts, best: int) -> list[Prediction]:
        """What the best prompt says of the development rows."""
        return self._judged(prompts.select([best]))[0].predictions

    def _counts(self, prompts: Prompts) -> Counts:
        """Of one prompt, as it is: how many labels there are decides with some methods."""
        trained = sum(parameter[0].numel() for parameter in self.parameters.values())
        stored = sum(tensor[0].numel() for tensor in prompts.tensors.values() if tensor.is_floating_point())
        return Counts(trained, stored)

    def tensors(self) -> dict[str, Tensor]:
        self._hand_over(self.parameters | self.update.optimizer.state)
        return self._state()

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"parameters.{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"buffers.{name}": buffer for name, buffer in self.module.named_buffers()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.update.optimizer.state.items()}
        return tensors

    def record(self) -> dict[str, Any]:
        return {"members": [asdict(state) for state in self.states]}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.states = [Standing(**state) for state in record["members"]]
        for name, tensor in self._state().items():
            tensor.copy_(tensors[name])

"""Multitask prompt tuning on a mixture: a prompt for each of its tasks, trained together, with one part that all share
(Wang et al. 2023, section 3.3).

Every step has a batch of each task, so that a task of few rows is not drowned by one of many. The loss is the mean over
tasks. The prompts of one rate and seed are one member of the population: they are clipped, scored, remembered and
stopped together, since what they share is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from statistics import fmean
from typing import Any

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Prediction
from preface.methods import PromptModule
from preface.methods.multitask_prompt_tuning import SharedPrompts
from preface.prompts import Prompts
from preface.records.card import plain
from preface.tasks import Split, Task
from preface.tuning.finish import Outcome, TaskPrompts
from preface.tuning.loop import Position
from preface.tuning.population import Population
from preface.tuning.processes import Processes
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Development, Judged, Rows


@dataclass(frozen=True)
class TaskRows(Rows):
    """The rows of a mixture, one task after the other, and those of each by themselves."""

    tasks: tuple[Task, ...] = ()
    each: tuple[Rows, ...] = ()
    """Of each task, with its own label words."""

    @classmethod
    def of_mixture(cls, backbone: Backbone, rows: Rows, mixture: Task, training: Split, development: Split) -> TaskRows:
        """`rows` by task; the splits are those that they were made of. Raises UserError where that cannot be."""
        if len({plain(task.name) for task in mixture.mixture}) < len(mixture.mixture):
            raise UserError(f"{mixture.name}: prompts lie in folders named like their tasks, and two are named alike")
        each = []
        for task, trained, held in zip(
            mixture.mixture, _slices(training.parts), _slices(development.parts), strict=True
        ):
            own = replace(
                rows,
                wanted=LabelWords.of(backbone, task.label_words, rows.cue),
                examples=rows.examples[trained],
                training=rows.training[trained],
                development=rows.development[held],
                held_out=rows.held_out[held],
            )
            if not own.training or not own.development:
                raise UserError(f"{task.name}: no rows are left of it once the tests of the other tasks are kept out")
            each.append(own)
        joint = {field.name: getattr(rows, field.name) for field in fields(rows)}
        tasks = tuple(task.model_copy(update={"cue": rows.cue, "wording": mixture.wording}) for task in mixture.mixture)
        return cls(**joint, tasks=tasks, each=tuple(each))

    @property
    def of_task(self) -> list[int]:
        return [number for number, own in enumerate(self.each) for _ in own.training]

    def weights(self, recipe: Recipe) -> list[float] | None:
        """As for each task alone."""
        several = [own.weights(recipe) for own in self.each]
        return None if None in several else [weight for own in several for weight in own or ()]

    def steps_an_epoch(self, recipe: Recipe) -> int:
        """Until each row of the largest task was seen."""
        return max(own.steps_an_epoch(recipe) for own in self.each)

    def majority(self, metric_name: str) -> float:
        """The mean over tasks, each by its own metric."""
        return fmean(own.majority(task.metric) for task, own in zip(self.tasks, self.each, strict=True))


def _slices(parts: Sequence[int]) -> list[slice]:
    """Where each of some parts lies, one after the other."""
    return [slice(end - size, end) for size, end in zip(parts, accumulate(parts), strict=True)]


class TaskDevelopment(Development):
    """The rows held out of each task, for its own prompts."""

    def __init__(self, backbone: Backbone, rows: TaskRows, keep: bool, processes: Processes) -> None:
        self.each = [
            Development(backbone, own, task.metric, keep, processes)
            for task, own in zip(rows.tasks, rows.each, strict=True)
        ]

    def judge(self, prompts: Prompts, of_each: Sequence[Sequence[int]] | None = None) -> list[Judged]:
        """How each of P·T prompts does on the rows of its task, among the labels of that, by the metric of that."""
        assert of_each is None
        count = len(self.each)
        by_task = [own.judge(prompts.select(range(at, prompts.size, count))) for at, own in enumerate(self.each)]
        return [judged for member in zip(*by_task, strict=True) for judged in member]


class Multitask(Population):
    """A population of rates × seeds, of which each member is a prompt for every task of a mixture."""

    rows: TaskRows
    module: SharedPrompts

    @property
    def count(self) -> int:
        """T."""
        return len(self.rows.tasks)

    def _built(self) -> PromptModule:
        alone = super()._built()
        assert isinstance(alone, SharedPrompts)
        return alone.for_tasks(self.count)

    def _development(self) -> Development:
        return TaskDevelopment(self.backbone, self.rows, self.module.leaves_reading, self.processes)

    def _batches(self, number: int) -> list[list[int]]:
        """Of each member a batch of every task, one after the other."""
        recipe, each = self.recipe, self.rows.each
        if not self.orders:
            self.orders = [
                batching.endless(own.lengths, seed, recipe.batch_size, recipe.token_budget, skip=number)
                for _, seed in recipe.members
                for own in each
            ]
        starts = [part.start for part in _slices([len(own.training) for own in each])]
        drawn = [next(order) for order in self.orders]
        return [
            [start + place for start, batch in zip(starts, drawn[at : at + self.count], strict=True) for place in batch]
            for at in range(0, len(drawn), self.count)
        ]

    def _by_task(self, members: Sequence[int]) -> list[list[Judged]]:
        """How the prompts of each member do, each on its own task."""
        chosen = [member * self.count + number for member in members for number in range(self.count)]
        judged = self._judged(self._prompts().select(chosen))
        return [judged[at : at + self.count] for at in range(0, len(judged), self.count)]

    def _evaluate(self, at: Position) -> Iterator[dict[str, Any]]:
        """Judge every active member by the means over its tasks."""
        members = self.active
        if not members:  # the last of them has just diverged
            return
        for member, found in zip(members, self._by_task(members), strict=True):
            score, loss = fmean(own.score for own in found), fmean(own.loss for own in found)
            by_task = {task.name: own.score for task, own in zip(self.rows.tasks, found, strict=True)}
            yield self._line(at, member, score, loss) | {"dev_scores": by_task}
            self._judge(member, score, loss, at.steps)

    def outcome(self, at: Position) -> Outcome:
        """Of every member what its tasks share, and the prompt of each of them."""
        outcome = super().outcome(at)
        prompts, members = outcome.prompts, outcome.members
        found = self._by_task([member.index for member in members])
        tasks = [
            TaskPrompts(
                task,
                prompts.select(range(number, prompts.size, self.count)),
                [
                    replace(member, score=own[number].score, loss=own[number].loss)
                    for member, own in zip(members, found, strict=True)
                ],
            )
            for number, task in enumerate(self.rows.tasks)
        ]
        return replace(outcome, prompts=Prompts({self.module.carrier: self.module.shared.detach()}), tasks=tasks)

    def _predictions(self, prompts: Prompts, best: int) -> list[Prediction]:
        (found,) = self._by_task([best])
        return [row for own in found for row in own.predictions]

"""Multitask prompt tuning: a prompt is a matrix that several tasks share, times one of rank one that is the task's own
(Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning", sections 3.1 to 3.3).

On a mixture a prompt for each task is trained (`preface.tuning.multitask`); on one task, which begins at what others
have shared (`--init prompt:RUN`), both parts go on being trained. The paper also distils from a teacher, a prompt of
each source task alone; that is left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from preface.backbones.base import Backbone
from preface.methods.base import Counts
from preface.methods.prompt_tuning import EmbeddingPrompts, PromptTuning


class MultitaskPromptTuning(PromptTuning):
    """n input embeddings times a matrix of rank one."""

    name: ClassVar[str] = "multitask-prompt-tuning"
    summary: ClassVar[str] = "input embeddings that tasks share, and two vectors a task"

    def module(self, start: Tensor, backbone: Backbone, seeds: Sequence[int]) -> EmbeddingPrompts:
        return SharedPrompts(start)

    def counts(self, backbone: Backbone) -> Counts:
        size = self.length * backbone.width
        return Counts(trained=size + self.length + backbone.width, stored=size)


class SharedPrompts(EmbeddingPrompts):
    """A prompt for each of T tasks of each of P members, side by side: `shared` `[P, n, d]`, times the outer product of
    the task's `u` `[P, T, n]` and `v` `[P, T, d]`, which begin at ones, so that all begin at the shared one."""

    def __init__(self, shared: Tensor, tasks: int = 1) -> None:
        super().__init__()
        size, length, width = shared.shape
        self.shared = nn.Parameter(shared)
        self.u = nn.Parameter(shared.new_ones(size, tasks, length))
        self.v = nn.Parameter(shared.new_ones(size, tasks, width))

    def embeddings(self) -> Tensor:
        own = self.u[..., None] * self.v[:, :, None]  # [P, T, n, d]
        return (self.shared[:, None] * own).flatten(0, 1)  # [P·T, n, d]

    def for_tasks(self, tasks: int) -> SharedPrompts:
        """The same beginning for so many tasks."""
        several = SharedPrompts(self.shared.detach(), tasks)
        several.carrier = self.carrier
        return several

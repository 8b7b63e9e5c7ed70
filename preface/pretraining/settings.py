"""Every number of a pre-training but the sizes of the model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preface.pretraining.mixture import OBJECTIVES, ObjectiveName
from preface.pretraining.optimizer import OptimizerName
from preface.tuning.loop import Budget
from preface.tuning.schedules import ScheduleName


class Settings(BaseModel):
    """How a backbone is trained, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectives: dict[ObjectiveName, float] = Field(min_length=1)
    """Weights; each step draws one objective in proportion to them."""
    input_length: int = Field(128, ge=8)
    """Tokens of an input."""
    batch_size: int = Field(24, ge=1)
    """Sequences a step, over all processes."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Sequences that a process holds at once; gradients add up. None: all."""
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(1e-2, gt=0, allow_inf_nan=False)
    """Relative to each matrix's root mean square."""
    schedule: ScheduleName = "cosine"
    warmup: int = Field(100, ge=0)
    """Steps."""
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    dropout: float = Field(0.0, ge=0, lt=1)
    steps: int | None = Field(None, ge=1)
    budget_tokens: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Exactly one budget. Minutes count all work, probes too; the schedule ends when they do."""
    seed: int = 0
    validate_every: int = Field(250, ge=1)
    """Steps."""
    probe_every: int = Field(1000, ge=1)
    """Steps."""
    checkpoint_seconds: float = Field(120.0, ge=0)
    """What is lost at most when the process is killed."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""

    @field_validator("objectives")
    @classmethod
    def _weights(cls, objectives: dict[ObjectiveName, float]) -> dict[ObjectiveName, float]:
        if any(not 0 < weight < float("inf") for weight in objectives.values()):
            raise ValueError("weights are positive numbers")
        return {name: objectives[name] for name in OBJECTIVES if name in objectives}

    @model_validator(mode="after")
    def _one_budget(self) -> Settings:
        if sum(budget is not None for budget in (self.steps, self.budget_tokens, self.minutes)) != 1:
            raise ValueError("give one budget: --steps, --budget-tokens or --minutes")
        return self

    @property
    def budget(self) -> Budget:
        if self.steps is not None:
            return Budget(self.steps, "steps")
        if self.budget_tokens is not None:
            return Budget(self.budget_tokens, "tokens")
        assert self.minutes is not None
        return Budget(60 * self.minutes, "seconds")

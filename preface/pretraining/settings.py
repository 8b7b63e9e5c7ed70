"""What `pretrain` and `adapt` share: what they are given, and every number but the sizes of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preface.tuning.schedules import Budget, ScheduleName

OptimizerName = Literal["adamw", "adafactor"]
ObjectiveName = Literal["span-corruption", "prefix-lm", "instructions"]
OBJECTIVES: tuple[ObjectiveName, ...] = ("span-corruption", "prefix-lm", "instructions")


class MakingOptions(BaseModel):
    """What a backbone is trained on, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Path | None = Field(None, description="A folder that `preface tokenize` made.")
    tasks: tuple[str, ...] = Field((), description="What `instructions` are made of.")
    keep_out: tuple[str, ...] = Field((), description="Tasks whose evaluation inputs may not be trained on.")
    probes: tuple[str, ...] = Field((), description="Tune a small prefix on these tasks as training goes on.")
    data: Path | None = Field(None, description="Folder with the data files of shipped tasks. Default: PREFACE_DATA.")
    dtype: str = Field("auto", description="What the model computes in: float32 or bfloat16.")
    device: str = Field("auto", description="cpu, cuda, …")


class Settings(BaseModel):
    """How a backbone is trained, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectives: dict[ObjectiveName, float] = Field(
        min_length=1,
        description="span-corruption, prefix-lm, instructions; several with weights, as in "
        "`span-corruption=0.6 prefix-lm=0.4`: each step draws one.",
    )
    input_length: int = Field(128, ge=8, description="Tokens of an input.")
    batch_size: int = Field(24, ge=1, description="Sequences a step, over all processes.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Sequences that a process holds in memory at once; gradients add up. Default: all."
    )
    optimizer: OptimizerName = Field("adamw", description="AdamW's rate is relative to each matrix's size.")
    learning_rate: float = Field(
        1e-2, gt=0, allow_inf_nan=False, description="Relative to each matrix's root mean square."
    )
    schedule: ScheduleName = Field("cosine", description="Of the rate.")
    warmup: int = Field(100, ge=0, description="Steps of rising rate.")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="Of the weights.")
    clip: float | None = Field(1.0, gt=0, description="Largest norm of the gradient.")
    dropout: float = Field(0.0, ge=0, lt=1, description="In all layers.")
    steps: int | None = Field(None, ge=1, description="Budget in steps.")
    budget_tokens: int | None = Field(None, ge=1, description="Budget in tokens.")
    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Budget in minutes of all work, probes included."
    )
    seed: int = Field(0, description="Of weights, order and masks. Default: 0.")
    validate_every: int = Field(250, ge=1, description="Steps between evaluations on held-out documents.")
    probe_every: int = Field(1000, ge=1, description="Steps between probes.")
    checkpoint_seconds: float = Field(
        120.0, ge=0, description="Between checkpoints: what is lost at most when the process is killed."
    )
    keep: int = Field(2, ge=1, description="Checkpoints kept.")

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

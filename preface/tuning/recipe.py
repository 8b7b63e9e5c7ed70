"""How prompts are trained: every number that is not the method's, the task's or the backbone's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preface.errors import UserError
from preface.options import validated
from preface.terminal.progress import warn
from preface.tuning.optimizers import OPTIMIZERS, OptimizerName
from preface.tuning.schedules import ScheduleName

MOST_SEEDS = 1_000


class Recipe(BaseModel):
    """A population is trained: every learning rate with every seed, side by side through one frozen forward."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rates: tuple[float, ...] = Field(min_length=1, description="One or several, trained side by side.")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, max_length=MOST_SEEDS, description="Of a prompt's initialisation and its order of rows."
    )
    optimizer: OptimizerName = Field("adamw", description="Adafactor as Lester et al. 2021 used it.")
    schedule: ScheduleName = Field("linear", description="Of the rate. Default: linear; adafactor: constant.")
    warmup: int = Field(20, ge=0, description="Steps of rising rate.")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="Of the prompt's numbers.")
    clip: float | None = Field(1.0, gt=0, description="Largest gradient norm of a prompt.")
    batch_size: int | None = Field(32, ge=1, description="Rows a step and prompt.")
    token_budget: int | None = Field(
        None, ge=1, description="Tokens a step and prompt, padding included; may stand in for a batch size."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: the rarer its label, the more a row counts in its batch."
    )
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False, description="Default: 15, within 300 to 2,000 steps.")
    steps: int | None = Field(None, ge=1, description="Wins over --epochs.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between evaluations on the development split. Default: twenty evaluations."
    )
    patience: int | None = Field(6, ge=1, description="Evaluations without a better score before a prompt stops.")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="No development split: this many folds choose rate and steps, then all rows train.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="In the frozen backbone.")
    gradient_checkpointing: bool = Field(False, description="Less memory, more time.")
    cuda_graphs: bool = Field(False, description="On a GPU, launch a step as a whole; not seen to work yet.")
    max_input_tokens: int = Field(512, ge=2, description="Longer inputs are cut and counted.")

    @field_validator("learning_rates")
    @classmethod
    def _rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(not math.isfinite(rate) or rate <= 0 for rate in rates):
            raise ValueError("learning rates are positive numbers")
        return tuple(dict.fromkeys(rates))

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, seeds: int | Sequence[int]) -> Sequence[int]:
        """A number of seeds means 0, 1, 2, …"""
        if isinstance(seeds, int) and seeds > MOST_SEEDS:
            raise ValueError(f"at most {MOST_SEEDS:,}")
        return tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))

    @model_validator(mode="after")
    def _some_limit(self) -> Recipe:
        if self.batch_size is None and self.token_budget is None:
            raise ValueError("batch-size or token-budget is needed")
        return self

    @model_validator(mode="after")
    def _no_patience_of_folds(self) -> Recipe:
        if self.folds is not None and self.patience not in (None, Recipe.model_fields["patience"].default):
            raise ValueError(f"patience {self.patience}: with folds every prompt trains for all steps; leave it out")
        return self

    @property
    def members(self) -> list[tuple[float, int]]:
        """Learning rate and seed of each member of the population."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]

    def check_answers(self, free_text: bool) -> None:
        """Raise UserError for what needs labels, where answers are free text."""
        if free_text and self.class_weights != "none":
            raise UserError(
                f"class-weights {self.class_weights}: the task's answers are free text, not labels; leave it out"
            )

    def alone(self, rate: float, seed: int) -> Recipe:
        """The same recipe for one rate and one seed."""
        return self.model_copy(update={"learning_rates": (rate,), "seeds": (seed,)})

    def resolve(self, an_epoch: int) -> Recipe:
        """The same recipe with steps and evaluations as numbers, where an epoch is so many batches."""
        if self.steps is not None:
            steps = self.steps
        elif self.epochs is not None:
            steps = math.ceil(self.epochs * an_epoch)
        else:
            steps = min(max(math.ceil(15 * an_epoch), 300), 2000)
        every = self.evaluate_every or max(1, math.ceil(steps / 20))
        warmup = min(self.warmup, steps // 5)
        if warmup < self.warmup != Recipe.model_fields["warmup"].default:
            warn(f"warmup {self.warmup}: more than a fifth of {steps:,} steps; it is {warmup}")
        return self.model_copy(update={"steps": steps, "evaluate_every": every, "warmup": warmup})


def recipe_from(fields: dict[str, Any], rates: Sequence[float]) -> Recipe:
    """A recipe from a user's words; else the optimizer's own fields, then the method's own rates. Raises UserError."""
    own = next((kind.recipe for name, kind in OPTIMIZERS.items() if name == fields.get("optimizer")), {})
    if fields.get("token_budget") is not None:
        fields = {"batch_size": None, **fields}
    return validated(Recipe, {"learning_rates": tuple(rates), **own, **fields})

"""How prompts are evaluated: every option of `evaluate` that is not about data, backbone or folders."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from preface.tasks.task import Instruction


class EvaluateOptions(BaseModel):
    """Options of `evaluate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: Instruction | None = Field(
        None,
        description="What the bare backbone reads; {text} is the input. Default: the wording of the task that does "
        "best on its development rows.",
    )
    prompts: Literal["best", "rate", "all"] = Field(
        "rate", description="The best, every seed at the best rate, or all."
    )
    scoring: Literal["rank", "generate"] = Field(
        "rank", description="Rank the label words, or generate and match exactly."
    )
    split: Literal["train", "validation", "test"] = Field("test", description="Of shipped tasks.")
    max_input_tokens: int | None = Field(
        None, ge=2, description="Longer inputs are cut and counted. Default: as in training, else 512."
    )

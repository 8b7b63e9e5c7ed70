"""How prompts are evaluated: every option of `evaluate` that is not about data, backbone or folders."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from preface.tasks.example import Template

INSTRUCTION = "review sentiment: {text}"
"""What the zero-shot column says to the embedded backbone, in the words of its own training."""


class EvaluateOptions(BaseModel):
    """Options of `evaluate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(INSTRUCTION, description="What the bare backbone reads; {text} is the input.")
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

    @field_validator("instruction")
    @classmethod
    def _is_a_template(cls, instruction: str) -> str:
        Template.parse(instruction)
        return instruction

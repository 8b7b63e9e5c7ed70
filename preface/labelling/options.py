"""How prompts are evaluated: every option of `evaluate` that is not about data, backbone or folders."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from preface.tasks.task import Instruction

Calibration = Literal["none", "contextual", "batch"]


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
    calibration: Calibration = Field(
        "none",
        description="Divide label probabilities by those of texts without content (contextual), or by their mean over "
        "the rows evaluated (batch), which looks at test texts.",
    )
    split: Literal["train", "validation", "test"] = Field("test", description="Of shipped tasks.")
    max_input_tokens: int | None = Field(
        None, ge=2, description="Longer inputs are cut and counted. Default: as in training, else 512."
    )

    @model_validator(mode="after")
    def _scored(self) -> EvaluateOptions:
        if self.scoring == "generate" and self.calibration != "none":
            raise ValueError("calibration needs scores: with scoring generate there are none; give scoring rank")
        return self

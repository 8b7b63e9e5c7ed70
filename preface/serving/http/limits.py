"""What a server takes, and for how long."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Bounds that every request keeps to, whoever sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body: int = Field(4 * 2**20, ge=1024, description="Bytes of a request; a prompt may have 64 times that.")
    max_texts: int = Field(256, ge=1, description="Texts in a request.")
    max_models: int = Field(1_000, ge=1, description="Prompts in a request.")
    max_answers: int = Field(10_000, ge=1, description="Texts times prompts in a request.")
    max_characters: int = Field(100_000, ge=1, description="Characters of a text.")
    max_new_tokens: int = Field(1_024, ge=1, description="Pieces that are written.")
    max_waiting: int = Field(
        10_000, ge=1, description="Texts of a caller that may wait, four times as many of all; more get a 429."
    )
    timeout: float = Field(60.0, gt=0, description="Seconds that a request may take.")

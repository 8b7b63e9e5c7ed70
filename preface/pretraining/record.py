"""What must be true of `backbone.json` for a training to go on from there."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from preface.pretraining.settings import Settings
from preface.records.record import Record


class Text(Record):
    """The text that is trained on."""

    model_config = ConfigDict(frozen=True, extra="allow")

    sha256: str


class MakingRecord(Record):
    """How a backbone is made; what else its record says is for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verb: Literal["pretrain", "adapt"]
    architecture: dict[str, Any] | None
    began_from: str | None
    tokens_folder: str | None
    tasks: tuple[str, ...]
    keep_out: tuple[str, ...]
    probe_tasks: tuple[str, ...]
    data: str | None
    dtype: str
    device: str
    settings: Settings
    text: Text | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> MakingRecord:
        if (self.architecture is None) == (self.began_from is None):
            raise ValueError("it begins either with an architecture or from a backbone")
        return self

"""What every file of JSON that Preface reads again is: a typed record, refused in one line where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from preface.errors import UserError, problem_of


class Record(BaseModel):
    """Frozen, and without fields that nothing reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, content: Any, file: Path) -> Self:
        """The record that a file's JSON holds. Raises UserError, naming file and field, if it holds another thing."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{file}: damaged, or of another version ({problem_of(error)})") from error

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json")

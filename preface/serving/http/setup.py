"""What a server consists of, as `preface serve` is told: enough to make one, here or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from preface.errors import UserError
from preface.labelling.fit import loaded
from preface.records.hub import is_of_hub, prompt_folder
from preface.serving.engine import KEEP_TEXTS, Engine
from preface.serving.http.access import Key
from preface.serving.http.limits import Limits
from preface.serving.store import KEEP, Store, check_folder


@dataclass(frozen=True)
class Setup:
    """Plain values, which can be sent."""

    folder: Path
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    keep_texts: int = KEEP_TEXTS
    keep_prompts: int = KEEP
    also: tuple[str, ...] = ()
    runs: Path | None = None
    keys: tuple[Key, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def engine(self) -> Engine:
        """With its backbone and its store. Raises UserError."""
        check_folder(self.folder)  # before a model is loaded
        elsewhere = self._elsewhere()
        store = Store(self.folder, loaded(self.backbone, self.dtype, self.device), self.keep_prompts, elsewhere)
        return Engine(store, keep_texts=self.keep_texts, most_waiting=self.limits.max_waiting)

    def _elsewhere(self) -> Mapping[str, Path]:
        """The prompts of `also` by name, fetched where they are of the hub."""
        found = {_name_of(prompt): prompt_folder(prompt) for prompt in self.also}
        if len(found) < len(self.also):
            names = ", ".join(self.also)
            raise UserError(f"also: two prompts have the same name: {names}; copy one under another name")
        return found


def _name_of(prompt: str) -> str:
    """The last part of `hub:OWNER/NAME@REVISION`, or of a folder's path."""
    return Path(prompt.partition("@")[0] if is_of_hub(prompt) else Path(prompt).resolve()).name

"""The prompts that are served: a folder of them, each loaded when it is first asked for and kept by recency.

The folder is the truth: a prompt that is written there, replaced or removed, by the server or by another program, is
known from the next request on. Requests that have begun keep the version they began with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.fit import backbone_of
from preface.labelling.free_text import Wanted, wanted
from preface.prompts import Prompts
from preface.records.atomic import naming, recover, remove, replacing
from preface.records.card import Ensemble, PromptCard, load_prompt
from preface.records.hub import FILES
from preface.serving.kept import Kept
from preface.tasks import Row, render
from preface.tasks.task import example_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a prompt may be called: nothing that leads out of the folder, or is hidden in it."""
KEEP = 2**30
"""Bytes of prompts that stay loaded, the last used of them."""

Text = str | Mapping[str, Any]
"""A text, or a row with the fields of a prompt's task."""


class UnknownPromptError(UserError):
    """There is no prompt of that name."""


@dataclass(frozen=True, eq=False)
class Served:
    """One version of a prompt, ready to answer."""

    name: str
    card: PromptCard
    prompts: Prompts
    """A single one, or those of an ensemble; on the backbone's device."""
    wanted: Wanted
    question: str
    """The template of what is read (`Pieces.question`)."""

    @property
    def ensemble(self) -> Ensemble | None:
        return self.card.ensemble

    @cached_property
    def leaves_reading(self) -> bool:
        """Whether a text's context is the same as under other prompts."""
        return self.prompts.leaves_reading

    @cached_property
    def without_prompt(self) -> Served:
        """The bare model on the same task, in the same words."""
        card = self.card.model_copy(update={"ensemble": None})
        return Served(f"zero-shot {card.task.name}", card, Prompts.bare(), self.wanted, self.question)

    def pieces(self, backbone: Backbone, texts: Sequence[Text]) -> tuple[list[list[int]], list[bool]]:
        """What is read of texts, or of rows with the fields of the prompt's task, and whether each was cut.

        Raises UserError for a row that lacks a field, or whose text is empty.
        """
        field = self.card.task.fields.input[0]
        rows = [{field: text} if isinstance(text, str) else text for text in texts]
        examples = [
            example_of(self.card.task, Row("request", number, dict(row), "text"), None)
            for number, row in enumerate(rows, 1)
        ]
        return render(backbone.tokenize, examples, self.card.max_input_tokens, self.question)


@dataclass(frozen=True)
class _Loaded:
    served: Served
    stamp: tuple[int, int]
    """Of the file that it was read from."""


class Store:
    """A folder of prompts of one backbone: a folder each, as `preface train` exports it, or a whole run."""

    def __init__(
        self, folder: str | Path, backbone: Backbone, keep: int = KEEP, also: Mapping[str, Path] | None = None
    ) -> None:
        """`keep`: bytes of prompts that stay loaded; `also`: prompts by name that lie elsewhere, and are never changed.

        Raises UserError if there is no such folder, or it has a prompt of such a name, or of the backbone's.
        """
        self.folder, self.backbone, self.also = Path(folder), backbone, dict(also or {})
        self.bare = Path(backbone.name).name
        """The name by which the backbone without a prompt is asked."""
        check_folder(self.folder)
        recover(self.folder)
        if _card_of(self.folder / self.bare):
            self._check(self.bare)
        for name, elsewhere in self.also.items():
            self._check(name)
            if _card_of(self.folder / name):
                raise UserError(f"prompt {name}: there is one in {folder}, and one in {elsewhere}; rename one of them")
            if _card_of(elsewhere) is None:
                raise UserError(f"prompt {name}: there is none in {elsewhere}")
        self.loaded: Kept[str, _Loaded] = Kept(keep, lambda loaded: loaded.served.prompts.bytes)
        self.asked: dict[Any, tuple[Wanted, str]] = {}
        """What tasks ask for, and what is read for them."""
        self.lock = RLock()
        self.changing = Lock()
        """For one prompt that is written or removed at a time."""

    def names(self) -> list[str]:
        """Of all prompts that are there, loaded or not."""
        with self.lock:
            own = {path.name for path in self.folder.iterdir() if self._card(path.name)}
        return sorted(own | self.also.keys())

    def path(self, name: str) -> Path:
        """Where a prompt lies, or would lie."""
        return self.also.get(name, self.folder / name)

    def get(self, name: str) -> Served:
        """A prompt as it is now. Raises UnknownPromptError, or UserError where it is damaged or of another backbone."""
        with self.lock:
            stamp = self._stamp(name)
            known = self.loaded.get(name)
            if known is not None and known.stamp == stamp:
                return known.served
            self.loaded.forget(name)
            served = self._load(name, self.path(name))
            self.loaded.put(name, _Loaded(served, stamp))
            return served

    def is_loaded(self, name: str) -> bool:
        """Whether `get` has little to do; the backbone is always there."""
        return name == self.bare or name in self.loaded

    def add(self, name: str, files: Mapping[str, bytes]) -> Served:
        """Write a prompt, `prompt.json` and `prompt.safetensors`, in the place of one of that name if there is one.

        Raises UserError, and leaves everything as it was, if it is damaged or of another backbone.
        """
        self._check(name)
        self._check_own(name)
        if set(files) != set(FILES):
            raise UserError(f"prompt {name}: needs the files {' and '.join(FILES)}, not {', '.join(files) or 'none'}")
        path = self.folder / name
        # whoever asks meanwhile waits for two folders to change places, and not for what is written and checked before
        with self.changing, naming(path), replacing(path, self.lock) as temporary:
            _check_prompt_alone(path)
            temporary.mkdir()
            for file in FILES:
                (temporary / file).write_bytes(files[file])
            return self._load(name, temporary)

    def remove(self, name: str) -> None:
        """Raises UnknownPromptError."""
        with self.changing, self.lock:
            self._stamp(name)
            self._check_own(name)
            path = self.folder / name
            _check_prompt_alone(path)
            remove(path)
            self.loaded.forget(name)
            if path.exists():
                raise UserError(f"prompt {name}: could not be removed; look at the permissions of its folder")

    def _card(self, name: str) -> Path | None:
        """Where a prompt's card lies; None: there is none, or no prompt may be called so."""
        return _card_of(self.path(name)) if NAME.fullmatch(name) and name != self.bare else None

    def _stamp(self, name: str) -> tuple[int, int]:
        card = self._card(name)
        if card is None:
            self.loaded.forget(name)
            raise UnknownPromptError(f"prompt {name}: there is none of that name; /v1/models lists those there are")
        about = card.stat()
        return about.st_ino, about.st_mtime_ns

    def _check_own(self, name: str) -> None:
        if name in self.also:
            raise UserError(f"prompt {name}: does not lie in the server's own folder, and is not changed")

    def _check(self, name: str) -> None:
        """Raise UserError for what no prompt may be called."""
        if not NAME.fullmatch(name):
            raise UserError(
                f"prompt {name[:80]!r}: a name has letters, digits, dots, dashes and underscores, 128 at most"
            )
        if name == self.bare:
            raise UserError(f"prompt {name}: the backbone without a prompt is asked by that name; give another one")

    def _load(self, name: str, folder: Path) -> Served:
        try:
            saved = load_prompt(folder)
            saved.refuse_shared()
            saved.check_sizes(backbone_of(saved.card, known=self.backbone))
        except UserError as error:  # whoever asks need not hear where prompts lie
            raise UserError(str(error).replace(str(folder), name)) from error
        task = saved.card.task
        # many prompts are of few tasks, and to write words in pieces takes as long as to read a prompt
        key = (task.cue, task.wording, task.label_words, task.multi_label, task.answer_pieces)
        if key not in self.asked:
            self.asked[key] = wanted(self.backbone, task), self.backbone.question(task.wording, task.cue)
        prompts = saved.prompts.to(self.backbone.device, self.backbone.dtype)
        return Served(name, saved.card, prompts, *self.asked[key])


def check_folder(folder: Path) -> None:
    """Raise UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder here; give one that holds prompts, a folder each")


def _check_prompt_alone(path: Path) -> None:
    """Raise UserError where a folder holds more than a prompt, which nobody may lose by a request."""
    if path.exists() and {item.name for item in path.iterdir()} != {*FILES}:
        raise UserError(f"prompt {path.name}: its folder holds more than a prompt; remove or replace it by hand")


def _card_of(path: Path) -> Path | None:
    """Where a prompt's card lies: in its own folder, or in a run's."""
    return next((card for card in (path / "prompt.json", path / "prompt" / "prompt.json") if card.is_file()), None)

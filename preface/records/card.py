"""A soft prompt on disk: its tensors, and the card that says what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.prompts import LABELS, Prompts, stack
from preface.records.atomic import DamagedError, read_folder, write_folder
from preface.records.hub import prompt_folder
from preface.records.record import Record
from preface.tasks import Task

TENSORS = "prompt.safetensors"
EMBEDDINGS = ("embeddings", "after", LABELS)
"""Tensors of vectors, each as wide as the model."""
MEMBER = "/"
"""Stands between the number of an ensemble's member and the name of its tensor."""
DIMENSIONS = {"": 2, "added": 3, "keys": 4, "values": 4, "relative": 0}
"""Of a prompt's tensors, by what follows the carrier in their names."""


@dataclass(frozen=True)
class Member:
    """One prompt of a population, and how it did on the development split."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    index: int
    learning_rate: float
    seed: int
    score: float
    """Best score, in [0, 1]; of correlations in [-1, 1]."""
    loss: float
    """Loss at that evaluation: the mean of −log of the probability given to the right label among the labels."""
    step: int
    """Step of that evaluation."""

    @property
    def untrained(self) -> bool:
        """Whether its prompt is its own beginning: no evaluation was better than the one before the first step."""
        return self.step == 0


class MethodRecord(Record):
    """A method's name, and the fields of its configuration."""

    name: str
    config: dict[str, Any]


class Origin(Record):
    """What a prompt was made for: a backbone, a task, a method."""

    backbone: str = Field(min_length=1)
    """An embedded backbone's name, a folder's absolute path, or a name on the hub; then how its weights were
    held, where not as they came: `@int8`."""
    revision: str | None = None
    """The commit, where the backbone is from the hub."""
    fingerprint: str
    shape: dict[str, int]
    """Sizes that the prompt depends on (`Backbone.sizes`)."""
    method: MethodRecord
    task: Task
    label_words: tuple[str, ...]
    """Two or more; none where answers are free text."""

    @model_validator(mode="after")
    def _words_or_text(self) -> Self:
        if (len(self.label_words) < 2) != self.task.free_text or len(self.label_words) == 1:
            raise ValueError("label_words are two or more, and none where the task's answers are free text")
        return self


def origin_of(backbone: Backbone, method: MethodRecord, task: Task) -> dict[str, Any]:
    """The fields of an `Origin`."""
    return {
        "backbone": backbone.name,
        "revision": backbone.revision,
        "fingerprint": backbone.fingerprint,
        "shape": backbone.sizes,
        "method": method,
        "task": task,
        "label_words": task.label_words,
    }


class Ensemble(Record):
    """How the prompts of a card answer as one."""

    combine: Literal["mean", "vote", "weighted"]
    """By mean probability, by majority vote, or by probabilities weighted as suits the development rows."""
    weights: tuple[float, ...] = Field(min_length=1)
    """Of each prompt's probabilities; they sum to 1."""
    members: tuple[Member | None, ...] = Field(min_length=1)
    runs: tuple[str, ...]
    """The folder that each came from."""

    @model_validator(mode="after")
    def _as_many(self) -> Ensemble:
        if not len(self.weights) == len(self.members) == len(self.runs):
            raise ValueError("weights, members and runs are not of one number")
        return self


class PromptCard(Origin):
    """What `prompt.json` says of the tensors beside it."""

    max_input_tokens: int = Field(ge=2)
    trained_parameters: int
    member: Member | None
    """Of an ensemble, the best; None: it was trained elsewhere."""
    ensemble: Ensemble | None = None
    """None: the tensors are one prompt's."""
    shared_by: tuple[str, ...] = ()
    """Names of tasks: the tensors are what their prompts share, and each has its own in a folder below."""
    versions: dict[str, str]
    tensors: dict[str, tuple[int, ...]] | None = None
    """The sizes of each; None in cards that were written before they were recorded."""

    @property
    def development_score(self) -> float | None:
        """The member's; None: it was trained elsewhere."""
        return None if self.member is None else self.member.score


@dataclass(frozen=True)
class SavedPrompt:
    """A soft prompt read from disk."""

    folder: Path
    prompts: Prompts
    """A single one, or those of an ensemble."""
    card: PromptCard

    @property
    def stored_bytes(self) -> int:
        """What its tensors take on disk."""
        return (self.folder / TENSORS).stat().st_size

    def of_task(self, name: str) -> SavedPrompt:
        """The prompt of one of the tasks that share this one. Raises UserError if it is none of them."""
        if name not in self.card.shared_by:
            raise UserError(f"{self.folder}: has no prompt for {name}; {self._advice}")
        return load_prompt(folder_of_task(self.folder, name))

    def refuse_shared(self) -> None:
        """Raise UserError if it is only what the prompts of several tasks share."""
        if self.card.shared_by:
            raise UserError(f"{self.folder}: is only what the prompts of several tasks share; {self._advice}")

    @property
    def _advice(self) -> str:
        tasks = self.card.shared_by
        return f"give that of {' or '.join(tasks)}, such as {folder_of_task(self.folder, tasks[0])}"

    def check_sizes(self, backbone: Backbone) -> None:
        """Raise UserError if its tensors do not fit the backbone."""
        for name, tensor in self.prompts.tensors.items():
            sizes = list(tensor.shape[1:])
            if not name.endswith(".mask") and not _fits(name, sizes, backbone):
                raise UserError(f"{self.folder / TENSORS}: {name!r} of sizes {sizes} does not fit {backbone.name}")


def _fits(name: str, sizes: Sequence[int], backbone: Backbone) -> bool:
    """Whether one of a prompt's tensors, of these sizes, fits the backbone."""
    carrier, _, part = name.partition(".")
    if name in EMBEDDINGS:
        return name in (*backbone.carriers, LABELS) and sizes[1] == backbone.width
    if part == "added":
        return carrier in backbone.carriers and (sizes[0], sizes[2]) == (backbone.layers - 1, backbone.hidden_width)
    site = backbone.sites.get(carrier)
    if site is None:
        return False
    return part == "relative" or (*sizes[:2], sizes[3]) == (site.layers, site.heads, site.width)


def folder_of_task(folder: Path, name: str) -> Path:
    """Where a task's own prompt lies, in the folder of what it shares with others."""
    return folder / "tasks" / plain(name)


def plain(name: str) -> str:
    """A task's name as a folder's."""
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)


def save_prompt(folder: Path, prompts: Prompts, card: PromptCard, index: int = 0) -> None:
    """Write one of some prompts into `folder` as `prompt.safetensors` and `prompt.json`."""
    _write(folder, prompts.tensors_of(index), card)


def save_ensemble(folder: Path, several: Sequence[Prompts], card: PromptCard) -> None:
    """Write single prompts as one that answers as `card.ensemble` says, each under its number."""
    tensors = {
        f"{number}{MEMBER}{name}": tensor
        for number, prompts in enumerate(several)
        for name, tensor in prompts.tensors_of(0).items()
    }
    _write(folder, tensors, card)


def _write(folder: Path, tensors: Mapping[str, Tensor], card: PromptCard) -> None:
    write_folder(folder, "prompt", tensors, card.model_copy(update={"tensors": _sizes(tensors)}).as_json())


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def load_prompt(folder: str | Path) -> SavedPrompt:
    """Read a prompt: its folder, a run's (then the run's best), or one of the hub (`hub:OWNER/NAME`).

    Raises UserError if absent or damaged.
    """
    folder = prompt_folder(folder)
    if not (folder / "prompt.json").exists() and (folder / "prompt" / "prompt.json").exists():
        folder = folder / "prompt"
    if (folder / "run.json").exists() and not (folder / "prompt.json").exists():
        raise UserError(f"{folder}: not finished; `preface train --resume {folder}` goes on")
    if not (folder / "prompt.json").exists():
        raise UserError(f"{folder}: no prompt here; give the folder of a finished run, or one with prompt.json")
    try:
        tensors, content = read_folder(folder, "prompt")
    except DamagedError as error:
        raise UserError(f"{error}; train it again, or copy it anew") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from error
    card = PromptCard.of(content, folder / "prompt.json")
    several = _by_member(tensors, card)
    problems = [problem for own in several if (problem := _problem(own, len(card.label_words)))]
    if not problems and card.tensors is not None and _sizes(tensors) != card.tensors:
        problems = [f"its tensors, {', '.join(sorted(tensors))}, are not those of prompt.json"]
    if problems:
        raise UserError(f"{folder / TENSORS}: {problems[0]}; train it again, or copy it anew")
    prompts = [Prompts.one(own) for own in several]
    return SavedPrompt(folder, prompts[0] if len(prompts) == 1 else stack(prompts), card)


def _by_member(tensors: Mapping[str, Tensor], card: PromptCard) -> list[dict[str, Tensor]]:
    """The tensors of each prompt that the card speaks of."""
    if card.ensemble is None:
        return [dict(tensors)]
    several: list[dict[str, Tensor]] = [{} for _ in card.ensemble.members]
    for name, tensor in tensors.items():
        number, _, own = name.partition(MEMBER)
        if number.isdecimal() and int(number) < len(several):
            several[int(number)][own] = tensor
    return several


def _problem(tensors: Mapping[str, Tensor], labels: int) -> str | None:
    """Why these are no tensors of a prompt for so many labels, whatever the backbone; None: they are."""
    if not tensors:
        return "has no tensors"
    for name, tensor in tensors.items():
        carrier, _, part = name.partition(".")
        if part not in DIMENSIONS or (part == "" and name not in EMBEDDINGS):
            return f"{name!r} is no tensor of a prompt"
        if tensor.dim() != DIMENSIONS[part]:
            return f"{name!r} has the sizes {list(tensor.shape)}, not {DIMENSIONS[part]} of them"
        if part != "relative" and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            return f"{name!r} holds values that are no finite numbers"
        if part == "added":
            if carrier not in tensors or tensors[carrier].shape[-2:-1] != tensor.shape[-2:-1]:
                return f"{name!r} does not add to as many {carrier} as there are"
            continue
        keys, values = tensors.get(f"{carrier}.keys"), tensors.get(f"{carrier}.values")
        if part and (keys is None or values is None or keys.shape != values.shape):
            return f"{carrier!r} has not as many keys as values"
    if LABELS in tensors and len(tensors[LABELS]) != labels:
        return f"{LABELS!r} has {len(tensors[LABELS])} vectors, and there are {labels} labels"
    return None

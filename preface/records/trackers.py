"""Trackers: where a training can be watched beside its folder, as TensorBoard, Weights & Biases or MLflow.

Each is one of accelerate's (`accelerate.tracking`), by its name there. The run's own folder stays the truth: what a
tracker is told is what `metrics.jsonl` says, and one that fails in the middle ends no training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from preface.errors import UserError, first_line
from preface.records.run import Result, RunRecord
from preface.terminal.progress import warn

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "preface"
"""What services file runs under."""
RUN_NAME = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
    "wandb": "name",
}
"""The argument by which a service takes the name of a run within its project."""


def tracker_names(track: str | Sequence[str] | None) -> tuple[str, ...]:
    """The trackers that a user names, `["tensorboard", "wandb"]` or `tensorboard,wandb`, each once.

    Raises UserError for one that accelerate does not know, or whose package is not installed.
    """
    given = [track] if isinstance(track, str) else track or ()
    names = tuple(dict.fromkeys(name.strip() for item in given for name in item.split(",") if name.strip()))
    for name in names:
        _check_installed(name)
    return names


class Trackers:
    """Those of one training; none unless some are started. Closed at the end of a `with`."""

    def __init__(self) -> None:
        self.started: list[GeneralTracker] = []
        self.step = 0
        """The last that they were told of."""

    @classmethod
    def start(cls, names: Sequence[str], folder: Path, record: RunRecord, resumed: bool = False) -> Trackers:
        """Start trackers for the run in a folder, and tell them how it is configured.

        Raises UserError if one cannot be started; a run that is `resumed` goes on without it, with a warning.
        """
        trackers = cls()
        for name in names:
            try:
                _check_installed(name)
                trackers.started.append(_started(name, folder, record))
            except Exception as error:  # whatever a service's own library raises
                said = str(error) if isinstance(error, UserError) else _said(name, error)
                if not resumed:
                    trackers.close()
                    raise UserError(f"{said}; put that right, or leave --track {name} out") from error
                warn(f"{said}; the training goes on without it")
        return trackers

    def log(self, members: Sequence[str], before: int, line: Mapping[str, Any]) -> None:
        """Pass a line of `metrics.jsonl` on.

        Args:
            members: what each prompt of the population is called.
            before: steps of an earlier part of the same training, for some services take no step twice.
            line: it has the `step`.
        """
        self._tell(values_of(line, members), before + line["step"])

    def finish(self, result: Result) -> None:
        """Pass on what the run ended with: the score that each prompt is kept with, and the best."""
        values = {f"final/score/lr{own.learning_rate:g}-seed{own.seed}": own.score for own in result.members}
        values["final/best_score"] = result.members[result.best].score
        self._tell(values, max(self.step, result.steps))

    def close(self) -> None:
        for tracker in self.started:
            try:
                tracker.finish()
            except Exception as error:
                warn(_said(tracker.name, error))
        self.started = []

    def _tell(self, values: dict[str, float], step: int) -> None:
        self.step = step
        for tracker in [*self.started]:
            try:
                tracker.log(dict(values), step=step)
            except Exception as error:
                self.started.remove(tracker)
                warn(f"{_said(tracker.name, error)}; the training goes on without it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def values_of(line: Mapping[str, Any], members: Sequence[str]) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl` by name: `loss/lr0.01-seed0` of the prompt of that rate and seed.

    Nothing where there is no number, as for the loss of a prompt that has stopped.
    """
    fields = dict(line)
    del fields["step"]
    losses, member, rate = fields.pop("losses", []), fields.pop("member", None), fields.pop("learning_rate", None)
    values = dict(zip((f"loss/{name}" for name in members), losses, strict=False))
    of = "" if member is None and rate is None else f"/lr{rate:g}" if member is None else f"/{members[member]}"
    for name, value in fields.items():
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]  # a score for each of several tasks
        values |= {f"{name}{of}" if part is None else f"{name}/{part}{of}": number for part, number in parts}
    return {name: value for name, value in values.items() if value is not None}


def configuration_of(record: RunRecord) -> dict[str, str | float]:
    """How a run is configured, as trackers take it: flat, of text and numbers, without what is not set."""
    fields = {
        "task": record.task.name,
        "backbone": record.backbone,
        "method": record.method.name,
        **{f"method.{name}": value for name, value in record.method.config.items()},
        **{f"recipe.{name}": value for name, value in record.recipe.items()},
        "training_rows": record.splits.train.rows,
        "development_rows": record.splits.validation.rows,
        "dtype": record.dtype,
        "device": record.device,
    }
    plain = (str, int, float)
    return {
        name: value if isinstance(value, plain) else json.dumps(value)
        for name, value in fields.items()
        if value is not None
    }


def _started(name: str, folder: Path, record: RunRecord) -> GeneralTracker:
    """One that knows the run's configuration. Where accelerate has it write into a folder, that is in the run's own."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=record.device == "cpu")  # which process this is: trackers ask
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    own = {RUN_NAME[name]: folder.resolve().name} if name in RUN_NAME else {}
    if name == "wandb":  # so that a run that is resumed goes on in the same place
        own |= {"id": _identity(folder, record), "resume": "allow"}
    tracker: GeneralTracker = kind(name, str(folder)) if kind.requires_logging_directory else kind(PROJECT, **own)
    tracker.start()
    tracker.store_init_configuration(configuration_of(record))
    return tracker


def _identity(folder: Path, record: RunRecord) -> str:
    return hashlib.sha256(f"{folder.resolve()} {record.started}".encode()).hexdigest()[:16]


def _said(name: str, error: BaseException) -> str:
    return f"track {name}: {first_line(error).rstrip('.')}"


def _check_installed(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"track {name}: there is no such tracker; there are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    own = {str(each) for each in LoggerType}  # others are somebody's own, who has registered them
    if name in own and name not in map(str, get_available_trackers()):
        raise UserError(f"track {name}: its package is not installed; `pip install {name}`")

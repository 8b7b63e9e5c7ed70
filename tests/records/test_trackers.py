"""Trackers hear what `metrics.jsonl` says, and no trouble of theirs is the training's."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.records.metrics import read_metrics
from preface.records.run import Run, RunRecord
from preface.records.trackers import configuration_of, tracker_names, values_of
from preface.terminal.interrupt import Interrupted
from preface.tuning import loop, population

RECIPE: dict[str, Any] = {
    "learning_rates": [0.02, 0.2],
    "steps": 8,
    "evaluate_every": 4,
    "batch_size": 8,
    "label_words": {"yes": "positive", "no": "negative"},
}
MEMBERS = ["lr0.02-seed0", "lr0.2-seed0"]


class Noted(GeneralTracker):
    """Notes what it hears, and fails where it is told to."""

    name = "noted"
    requires_logging_directory = False
    heard: list[tuple[Any, ...]]
    fails_in = ""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.note("made", project)

    def note(self, what: str, *of: Any) -> None:
        self.heard.append((what, *of))
        if what == self.fails_in:
            raise RuntimeError(f"no network in {what}\nand much more")

    @property
    def tracker(self) -> None: ...

    def start(self) -> None:
        self.note("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.note("configuration", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.note("log", step, values)

    def finish(self) -> None:
        self.note("finish")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> type[Noted]:
    class Own(Noted):
        heard = []  # noqa: RUF012

    class Other(Own):
        name = "other"

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "noted", Own)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "other", Other)
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    return Own


def train(backbone: Backbone, task: Path, out: Path, **changes: Any) -> Run:
    return preface.train(backbone, task, PrefixTuning(length=2), out=out, **RECIPE | changes)


def told(run: Path, members: list[str]) -> list[tuple[Any, ...]]:
    """What a tracker should have heard of a run's `metrics.jsonl`."""
    return [("log", line["step"], values_of(line, members)) for line in read_metrics(run)]


def test_a_tracker_hears_configuration_metrics_and_scores(
    tiny: Backbone, data_file: Path, tmp_path: Path, noted: type[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    run = train(tiny, data_file, tmp_path / "run", track=["noted"])
    made, start, (_, configuration), *logs, final, finish = noted.heard
    assert (made, start, finish) == (("made", "preface"), ("start",), ("finish",))
    assert logs == told(run.folder, MEMBERS)
    scores = {f"final/score/{name}": member.score for name, member in zip(MEMBERS, run.members, strict=True)}
    assert final == ("log", run.result.steps, scores | {"final/best_score": run.best.score})
    assert configuration["method"] == "prefix-tuning"
    assert (configuration["method.length"], configuration["recipe.steps"]) == (2, 8)
    assert configuration["recipe.learning_rates"] == "[0.02, 0.2]"
    assert all(isinstance(value, (str, int, float)) for value in configuration.values())
    assert "a-secret" not in str(noted.heard)
    assert not any(b"a-secret" in file.read_bytes() for file in run.folder.rglob("*") if file.is_file())


def test_the_event_file_of_tensorboard_has_all_metrics(
    tiny: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    run = train(tiny, data_file, tmp_path / "run", track="tensorboard")
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    found = {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    written = {(name, step): value for _, step, values in told(run.folder, MEMBERS) for name, value in values.items()}
    assert {("loss/lr0.2-seed0", 8), ("dev_score/lr0.02-seed0", 0), ("dev_loss/lr0.02-seed0", 4)} <= written.keys()
    assert {key: found[key] for key in written} == pytest.approx(written)
    assert found["final/best_score", 8] == pytest.approx(run.best.score)


def test_with_folds_steps_go_on_counting(tiny: Backbone, data_file: Path, tmp_path: Path, noted: type[Noted]) -> None:
    run = train(tiny, data_file, tmp_path / "run", track="noted", folds=2, seeds=1)
    logs = [heard for heard in noted.heard if heard[0] == "log"]
    folds = [f"lr{rate}-fold{fold}" for rate in ("0.02", "0.2") for fold in (0, 1)]
    first = told(run.folder / "folds", folds)
    (chosen,) = [f"lr{member.learning_rate:g}-seed0" for member in run.members]
    second = [("log", 8 + step, values) for _, step, values in told(run.folder, [chosen])]
    assert logs[:-1] == first + second
    assert "cross_validated_score/lr0.2" in first[-1][2]
    assert [step for _, step, _ in logs] == sorted(step for _, step, _ in logs)


@pytest.mark.parametrize("part", ["made", "start", "configuration"])
def test_one_that_does_not_start_is_said_before_anything_is_trained(
    tiny: Backbone, data_file: Path, tmp_path: Path, noted: type[Noted], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(accelerate.tracking.LOGGER_TYPE_TO_CLASS["other"], "fails_in", part)
    said = f"^track other: no network in {part}; put that right, or leave --track other out$"
    with pytest.raises(UserError, match=said):
        train(tiny, data_file, tmp_path / "run", track="noted,other")
    assert Counter(heard[0] for heard in noted.heard)["finish"] == 1  # the one that had started
    assert not any(heard[0] == "log" for heard in noted.heard)
    train(tiny, data_file, tmp_path / "run", steps=1)  # the name is still free


def test_one_that_fails_later_is_said_once_and_ends_no_training(
    tiny: Backbone,
    data_file: Path,
    tmp_path: Path,
    noted: type[Noted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    untracked = train(tiny, data_file, tmp_path / "untracked")
    monkeypatch.setattr(accelerate.tracking.LOGGER_TYPE_TO_CLASS["other"], "fails_in", "log")
    run = train(tiny, data_file, tmp_path / "run", track=["other", "noted"])
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("track other: no network in log; the training goes on without it") == 1
    assert run.members == untracked.members
    assert noted.heard[-1] == ("finish",)
    logs = [heard for heard in noted.heard if heard[0] == "log"]
    assert logs[2:-1] == told(run.folder, MEMBERS)[1:]  # the first line was told to both


def test_one_that_fails_at_its_end_costs_nothing(
    tiny: Backbone,
    data_file: Path,
    tmp_path: Path,
    noted: type[Noted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(noted, "fails_in", "finish")
    assert train(tiny, data_file, tmp_path / "run", steps=1, track="noted").result
    assert "track noted: no network in finish" in capsys.readouterr().err


def interrupted(backbone: Backbone, data_file: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = population.Population.step

    def press(self: Any, number: int, done: float) -> int:
        if number == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, done)

    with monkeypatch.context() as patch:
        patch.setattr(population.Population, "step", press)
        with pytest.raises(Interrupted):
            train(backbone, data_file, out, track="noted")


def test_a_resumed_run_goes_on_with_its_trackers(
    tiny: Backbone, data_file: Path, tmp_path: Path, noted: type[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny, data_file, tmp_path / "run", monkeypatch)
    assert RunRecord.read(tmp_path / "run").track == ("noted",)
    assert noted.heard[-1] == ("finish",)
    run = preface.train(tiny, resume=tmp_path / "run")
    assert run.record.track == ("noted",)
    logs = [heard for heard in noted.heard if heard[0] == "log"]
    without_time = [(step, {**values, "seconds": 0}) for _, step, values in logs[:-1]]
    assert without_time == [(step, {**values, "seconds": 0}) for _, step, values in told(run.folder, MEMBERS)]
    assert noted.heard[-1] == ("finish",)


def test_a_resumed_run_goes_on_without_one_that_does_not_start(
    tiny: Backbone,
    data_file: Path,
    tmp_path: Path,
    noted: type[Noted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted(tiny, data_file, tmp_path / "run", monkeypatch)
    monkeypatch.setattr(noted, "fails_in", "start")
    assert preface.train(tiny, resume=tmp_path / "run").result
    assert "no network in start; the training goes on without it" in " ".join(capsys.readouterr().err.split())


def test_names(noted: type[Noted], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_names(None) == tracker_names([]) == ()
    assert tracker_names("noted, other") == tracker_names(["noted", "other,noted"]) == ("noted", "other")
    with pytest.raises(UserError, match=r"^track nosuch: there is no such tracker; there are aim, .*tensorboard"):
        tracker_names(["noted", "nosuch"])
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(UserError, match=r"^track wandb: its package is not installed; `pip install wandb`$"):
        tracker_names("wandb")


def test_values_of_every_kind_of_line() -> None:
    assert values_of({"step": 3, "losses": [0.5, None], "seconds": 1.5}, MEMBERS) == {
        "loss/lr0.02-seed0": 0.5,
        "seconds": 1.5,
    }
    of_tasks = {"step": 0, "member": 1, "dev_score": 0.5, "dev_loss": None, "dev_scores": {"film": 0.25, "posts": 0.75}}
    assert values_of(of_tasks, MEMBERS) == {
        "dev_score/lr0.2-seed0": 0.5,
        "dev_scores/film/lr0.2-seed0": 0.25,
        "dev_scores/posts/lr0.2-seed0": 0.75,
    }
    of_rate = {"step": 0, "learning_rate": 1e-05, "cross_validated_score": 0.5, "cross_validated_loss": None}
    assert values_of(of_rate, MEMBERS) == {"cross_validated_score/lr1e-05": 0.5}


def test_the_configuration_says_nothing_of_commands_and_files() -> None:
    record = RunRecord.read(Path(__file__).parent / "fixtures" / "run")
    secret = record.model_copy(update={"command": ("preface", "--key", "a-secret"), "data": Path("a-secret")})
    assert "a-secret" not in str(configuration_of(secret))

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import preface
from preface import cli
from preface.cli.bench import timings_table
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.tuning.bench import POPULATIONS, Timing, describe, fastest


@pytest.fixture(scope="module")
def timings(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Timing]:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"thing number {i} {'more ' * (i % 4)},{i % 2}\n" for i in range(40)))
    return preface.bench(checkpoint_folder, path, steps=2, batch_size=4, device="cpu")


def test_every_setting_is_timed_once(timings: list[Timing]) -> None:
    settings = [(timing.method, timing.members, timing.dtype, timing.threads) for timing in timings]
    assert len(set(settings)) == len(settings)
    decoder = [timing.members for timing in timings if timing.method.endswith("at decoder")]
    assert decoder == list(POPULATIONS)
    assert {timing.threads for timing in timings} <= set(range(1, torch.get_num_threads() + 1))


def test_without_time_each_setting_takes_one_step_and_populations_none(
    checkpoint_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"thing number {i},{i % 2}\n" for i in range(40)))
    timed = preface.bench(checkpoint_folder, tmp_path / "rows.csv", batch_size=4, seconds=0, device="cpu")
    assert {timing.members for timing in timed} == {1}
    assert len({timing.method for timing in timed}) == 3
    assert capsys.readouterr().err.count("not timed") == 2 * len(POPULATIONS[1:])


def test_numbers_belong_together(timings: list[Timing]) -> None:
    for timing in timings:
        assert timing.step_seconds > 0
        assert timing.first_seconds > 0
        # 40 rows are cut into a part for training and one for development; an epoch is batches of four
        batches = timing.epoch_seconds * timing.rows_a_second / (timing.members * timing.batch_size)
        assert batches == pytest.approx(round(batches), abs=0.3)


def test_only_inputs_that_prompts_leave_alone_are_encoded_once(timings: list[Timing]) -> None:
    for timing in timings:
        assert (timing.first_seconds == timing.step_seconds) == (not timing.method.endswith("at decoder"))


def test_threads_are_given_back(timings: list[Timing]) -> None:
    assert torch.get_num_threads() >= max(timing.threads for timing in timings)


def test_the_fastest_is_of_one_prompt(timings: list[Timing]) -> None:
    best = fastest(timings)
    assert best.members == 1
    assert best.rows_a_second == max(timing.rows_a_second for timing in timings if timing.members == 1)


def test_table_names_every_setting(timings: list[Timing]) -> None:
    table = timings_table(timings, "mine")
    assert table.row_count == len(timings)


def test_methods_are_described() -> None:
    assert describe(PrefixTuning(sites=("decoder", "cross"))) == "prefix of 20 at decoder cross"
    assert describe(PrefixTuning(length=5)) == "prefix of 5"
    assert describe(PromptTuning(length=100)) == "prompt of 100"


def test_command_prints_json(
    checkpoint_folder: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ["--backbone", str(checkpoint_folder), "--task", str(data_file), "--steps", "2", "--batch-size", "4"]
    monkeypatch.setattr(sys, "argv", ["preface", "bench", *options, "--device", "cpu", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert {"method", "members", "step_seconds", "epoch_seconds"} <= json.loads(capsys.readouterr().out)[0].keys()


def test_mistakes_are_told(checkpoint_folder: Path) -> None:
    with pytest.raises(UserError, match="at least 2 steps"):
        preface.bench(checkpoint_folder, steps=1)

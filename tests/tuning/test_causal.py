"""All verbs on a decoder-only model, from a data file to labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import preface
from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.errors import UserError
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.records.run import Run
from preface.tuning import loop

METHODS = [
    PrefixTuning(length=3),
    PrefixTuning(length=3, sites=("input",)),
    PromptTuning(length=3),
    PromptTuning(length=3, place="after"),
]


@pytest.fixture(scope="module")
def causal(causal_folder: Path) -> Backbone:
    return load_backbone(causal_folder, dtype="float32", device="cpu")


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_trained_saved_evaluated_and_used(
    method: Method, causal: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    run = preface.train(
        causal,
        data_file,
        method,
        out=tmp_path / "run",
        steps=40,
        learning_rates=[0.03],
        batch_size=8,
        seeds=2,
        patience=None,
    )
    first, *_, last = losses(run)
    assert max(last) < min(first)
    cells = preface.evaluate(run, backbone=causal)
    assert [cell.n for cell in cells] == [60, 60]
    lines = list(preface.predict(run.folder, data_file, backbone=causal))
    best = next(cell for cell in cells if cell.seed == run.best.seed)
    right = sum(line["label"] == ("yes", "no")[place % 2] for place, line in enumerate(lines))
    assert right / len(lines) == pytest.approx(best.value)


def losses(run: Run) -> list[list[float]]:
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [line["losses"] for line in lines if "losses" in line]


def test_free_generation_is_matched_by_its_first_words(causal: Backbone, data_file: Path) -> None:
    (cell,) = preface.evaluate(None, [data_file], backbone=causal, scoring="generate", instruction="{text}")
    assert 0 <= cell.details["illegal"] <= 1


def test_what_a_decoder_only_model_has_not(causal: Backbone, nano: Backbone, data_file: Path, tmp_path: Path) -> None:
    for backbone, method, said in (
        (causal, PrefixTuning(sites=("encoder",)), "sites encoder: .* has input, answer"),
        (causal, PrefixTuning(positions="none"), "positions none: .* has no bias by position"),
        (nano, PromptTuning(place="after"), "place after: nano reads its text apart from the answer; give before"),
        (nano, PrefixTuning(sites=("answer",)), "sites answer: nano has encoder, decoder, cross"),
    ):
        with pytest.raises(UserError, match=said):
            preface.train(backbone, data_file, method, out=tmp_path / "run", steps=1)


def test_a_prompt_of_the_other_kind_is_refused(
    causal: Backbone, nano: Backbone, data_file: Path, tmp_path: Path
) -> None:
    run = preface.train(
        causal, data_file, METHODS[3], out=tmp_path / "run", steps=2, learning_rates=[0.1], batch_size=8
    )
    with pytest.raises(UserError, match="does not fit nano"):
        next(preface.predict(run.folder, ["a text"], backbone=nano))


def test_bench_times_its_sites(causal_folder: Path, data_file: Path) -> None:
    timings = preface.bench(causal_folder, data_file, steps=2, batch_size=4, device="cpu")
    assert {timing.method for timing in timings} == {
        "prefix of 20 at input answer", "prompt of 100", "prefix of 20 at answer"
    }  # fmt: skip

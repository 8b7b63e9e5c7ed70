from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.errors import UserError
from preface.labelling.predict import originals
from preface.methods import PrefixTuning
from preface.records.run import Run
from preface.tasks import load_task


@pytest.fixture(scope="module")
def run(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return preface.train(
        nano,
        "film",
        PrefixTuning(length=4),
        out=tmp_path_factory.mktemp("runs") / "film",
        learning_rates=[1e-2],
        steps=1,
        batch_size=8,
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.precision
def test_predicts_in_order_with_bounded_memory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(device="cpu")
    near = 0.06 if backbone.dtype == torch.bfloat16 else 1e-4  # what is computed in other batches is rounded otherwise
    texts = [f"{'long ' * (i % 7)} film {i}" for i in range(23)]
    file = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    whole = list(preface.predict(run, file, backbone=backbone))
    assert [line["line"] for line in whole] == list(range(1, 24))
    monkeypatch.setattr("preface.labelling.predict.CHUNK", 5)
    read = []
    from preface.labelling import predict as prediction

    stream = prediction.iter_examples
    monkeypatch.setattr(
        prediction, "iter_examples", lambda *a, **k: (read.append(1) or item for item in stream(*a, **k))
    )
    parts = preface.predict(run.folder, file, backbone=backbone)
    first = next(parts)
    assert len(read) == 5  # no more was read than the first chunk
    for one, other in zip([first, *parts], whole, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=near)
        assert one["label"] == other["label"] or abs(one["probabilities"]["positive"] - 0.5) < near


def test_a_bad_row_ends_the_stream_after_those_before_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n{"text": ""}\n{"text": "four"}\n')
    stream = preface.predict(run, file)
    assert [next(stream)["line"] for _ in range(2)] == [1, 2]
    with pytest.raises(UserError, match=r"rows.jsonl line 3: .* \(or --skip-bad-rows\)"):
        next(stream)
    skipped: list[str] = []
    kept = preface.predict(run, file, skip_bad_rows=True, on_skip=skipped.append)
    assert [line["line"] for line in kept] == [1, 2, 4]
    assert len(skipped) == 1


def test_lists_of_texts_and_of_rows(run: Run) -> None:
    texts = ["a fine film", "a bad film"]
    lines = list(preface.predict(run, texts))
    assert [line["line"] for line in lines] == [1, 2]
    rows = list(preface.predict(run, [{"text": text, "id": 7} for text in texts]))
    assert [row["probabilities"] for row in rows] == [line["probabilities"] for line in lines]
    with pytest.raises(UserError, match="source row 2: the field 'text' is empty"):
        list(preface.predict(run, ["a text", " "]))
    assert list(preface.predict(run, [])) == []


def test_a_field_that_is_named_is_the_one_that_is_read(run: Run, tmp_path: Path) -> None:
    """Not `text`, which would be taken where nobody names one."""
    file = write(tmp_path / "rows.jsonl", [{"text": "one", "title": "two"}])
    assert len(list(preface.predict(run, file))) == len(list(preface.predict(run, file, input="title"))) == 1
    with pytest.raises(UserError, match="has no field 'tilte'; its fields are 'text', 'title'"):
        list(preface.predict(run, file, input="tilte"))


def test_labels_as_the_data_had_them() -> None:
    task = load_task("film")
    named = task.model_copy(update={"labels": {"0": "negative", "1": "negative", "2": "positive", "3": None}})
    assert originals(named) == {"positive": "2"}
    assert originals(task.model_copy(update={"labels": {"negative": "negative", "positive": "positive"}})) == {}


def serve(run: Run) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "preface", "predict", str(run.folder), "--dtype", "float32", "--device", "cpu"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, bufsize=1, **pipes)


def test_a_slow_input_is_answered_row_by_row(run: Run) -> None:
    """Each row is sent only once the one before is answered."""
    with serve(run) as process:
        for number in (1, 2, 3):
            process.stdin.write(json.dumps({"text": f"film number {number}"}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait(60) == 0


def test_an_error_in_the_input_comes_after_the_answers(run: Run) -> None:
    with serve(run) as process:
        out, err = process.communicate('{"text": "one"}\n{"text": ""}\n{"text": "three"}\n', timeout=120)
    assert [json.loads(line)["line"] for line in out.splitlines()] == [1]
    assert process.returncode == 2
    assert "line 2" in err
    assert len(err.strip().splitlines()) == 1


def test_ctrl_c_ends_it_without_a_traceback(run: Run) -> None:
    with serve(run) as process:
        process.stdin.write('{"text": "one"}\n')
        process.stdin.flush()
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "preface: interrupted\n"

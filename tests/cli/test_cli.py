"""The command as a user meets it: a process, its output, its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from preface import cli
from preface.cli import MANY, app, expand
from preface.tasks.registry import DEFINITIONS


def preface(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preface", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def in_process(arguments: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The same without the seconds that a new process takes to import torch."""
    monkeypatch.setattr(sys, "argv", ["preface", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    done = preface(
        "train", "--task", "film", "--length", 2, "--learning-rate", 1e-3, 1e-2, "--seeds", 2, "--steps", 2,
        "--batch-size", 4, "--out", folder, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)  # and nothing else on standard output
    assert [(cell["details"]["learning_rate"], cell["seed"]) for cell in cells] == [
        (0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)
    ]  # fmt: skip
    assert {"backbone", "method", "train_task", "eval_task", "metric", "value", "n", "versions"} <= set(cells[0])
    return folder


def test_evaluate_prints_cells(run: Path, capsys: Any, monkeypatch: Any) -> None:
    code, out, _ = in_process(["evaluate", run, "--on", "posts", "--on", "film", "--json"], capsys, monkeypatch)
    assert code == 0
    assert [cell["eval_task"] for cell in json.loads(out)] == ["posts", "posts", "film", "film"]


def test_predict_streams_from_standard_input(run: Path) -> None:
    done = preface("predict", run, input='{"text": "a fine film"}\n{"text": "dull"}\n')
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line["probabilities"]) for line in lines] == [{"negative", "positive"}] * 2
    table = preface("predict", run, "--input", "words", input='words,more\n"a fine, fine film",1\n')
    assert len(table.stdout.splitlines()) == 1


def test_own_csv_needs_no_yaml(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    file = tmp_path / "reviews.csv"
    rows = (f'"a {("good", "bad")[i % 2]} one, number {i}",{i % 2}' for i in range(40))
    file.write_text("text,stars\n" + "\n".join(rows) + "\n")
    arguments = ["train", "--task", file, "--input", "text", "--label", "stars", "--label-words", "0=good", "1=bad"]
    arguments += ["--steps", 2, "--seed", 3, "--out", tmp_path / "run"]
    code, out, err = in_process(arguments, capsys, monkeypatch)
    assert code == 0, err
    assert "preface evaluate" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["label_words"] == ["good", "bad"]
    assert record["recipe"]["seeds"] == [3]


def test_tasks_and_methods(capsys: Any, monkeypatch: Any) -> None:
    _, out, _ = in_process(["tasks", "--json"], capsys, monkeypatch)
    names = {task["name"] for task in json.loads(out)}
    assert names == {path.stem for path in DEFINITIONS.glob("*.yaml")}
    assert names > {"sst2", "imdb", "trec", "film", "posts"}
    _, out, _ = in_process(["methods", "--json", "--length", 7], capsys, monkeypatch)
    for row in json.loads(out):
        assert row["gradient_receiving"] == row["trained"] >= row["stored"]
        assert row["length"] == 7
    code, out, _ = in_process(["methods"], capsys, monkeypatch)
    assert code == 0
    assert "prompt-tun" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "task: none given"),
        (["train", "--task", "nope.csv"], "nope.csv"),
        (["train", "--task", "sst3"], "sst3"),
        (["train", "--task", "film", "--method", "magic"], "one of prefix-tuning, prompt-tuning"),
        (["train", "--task", "film", "--length", "0"], "length"),
        (["train", "--task", "film", "--sites", "middle"], "sites"),
        (["train", "--task", "film", "--learning-rate", "-1"], "learning-rates"),
        (["train", "--task", "film", "--seed", "1", "--seeds", "2"], "either --seed or --seeds"),
        (["train", "--task", "film", "--init", "magic"], "random, vocabulary"),
        (["train", "--task", "film", "--label-words", "positive"], "LABEL=WORD"),
        (["train", "--task", "film", "--method", "prompt-tuning", "--sites", "encoder"], "sites"),
        (["train", "--resume", "nowhere"], "nothing to resume"),
        (["evaluate", "nowhere"], "nowhere"),
        (["train", "--lenght", "3"], "--lenght"),
        (["train", "--task", "film", "--steps", "abc"], "--steps"),
        (["evaluate", "--on", "posts", "--instruction", "hello"], "{text}"),
        (["evaluate", "--on", "posts", "--on", "posts"], "named twice"),
        (["train", "--task", "film", "--train-rows", "0"], "--train-rows"),
        (["evaluate"], "no task given"),
        (["predict", "nowhere"], "no prompt here"),
        (["compare", "cross-domain", "--recipe", "nope", "--out", "x"], "neither shipped"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[object], says: str, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = in_process(arguments, capsys, monkeypatch)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,label\na,1\nb,2\nc\n", "line 4"),
        ("text,label\na,1\n,2\n", "line 3"),
        ("words,label\na,1\nb,2\n", "'words'"),
        ("", "rows"),
        ("text,label\na,1\nb,1\n", "only one label"),
        (b"text,label\na,1\n\xff\xfe,2\n", "encoding"),
    ],
)
def test_bad_data_is_one_line_that_names_the_place(
    content: str | bytes, says: str, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = in_process(["train", "--task", file, "--out", tmp_path / "r"], capsys, monkeypatch)
    assert code == 2
    assert "bad.csv" in err
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "preface", "train", "--task", "film", "--length", "1", "--seeds", "1"]
    command += ["--steps", "100000", "--evaluate-every", "50000", "--learning-rate", "0.01", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and "losses" not in _read(out / "metrics.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"preface train --resume {out}" in err
    assert "Traceback" not in err
    assert list((out / "checkpoints").glob("step-*"))


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_skipped_rows_are_counted_and_listed(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    rows = [f"text {i},{('a', 'b')[i % 2]}" for i in range(30)]
    file.write_text("text,label\n" + "\n".join([*rows[:10], "only one cell", *rows[10:], ",a"]) + "\n")
    arguments = ["train", "--task", file, "--skip-bad-rows", "--steps", 1, "--length", 1, "--out", tmp_path / "r"]
    code, _, err = in_process(arguments, capsys, monkeypatch)
    assert code == 0
    said = err.replace("\n", " ")
    assert "2 bad rows were left out" in said
    assert "line 12" in said
    assert "line 33" in said


def test_help_has_examples_and_does_not_wait_for_torch() -> None:
    for verb in ("train", "evaluate", "predict"):
        done = preface(verb, "--help")
        assert done.returncode == 0
        assert f"preface {verb} " in done.stdout
        assert "Examples" in done.stdout
    loaded = "import sys, preface.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_shell_completion_is_offered() -> None:
    assert "--install-completion" in preface("--help").stdout


values = st.lists(st.sampled_from(["1e-3", "0.1", "a=b", "-1=b", "x"]), min_size=1, max_size=4)


@given(st.sampled_from(sorted(MANY)), values, st.lists(st.sampled_from(["--json", "--out", "run"]), max_size=3))
def test_several_values_after_one_option(option: str, several: list[str], rest: list[str]) -> None:
    rest = ["--steps", "3", *rest]
    expected = [f"{option}={value}" for value in several]
    assert expand([option, *several, *rest]) == expected + rest
    assert expand([*(part for value in several for part in (option, value)), *rest]) == expected + rest


def test_the_same_option_has_the_same_name_in_every_verb() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {}
    for verb in ("train", "evaluate", "predict"):
        for parameter in commands[verb].params:
            options.setdefault(parameter.name, set()).update(parameter.opts)
    assert all(len(names) == 1 for names in options.values())

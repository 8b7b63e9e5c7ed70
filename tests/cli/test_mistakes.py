"""A mistake is one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Called


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
        (["train", "--lenght", "3"], "(`preface train --help` shows what there is)"),
        (["evaluate", "--split", "dev"], "(`preface evaluate --help` shows what there is)"),
        (["train", "--task", "film", "--steps", "abc"], "--steps"),
        (["evaluate", "--on", "posts", "--instruction", "hello"], "{text}"),
        (["evaluate", "--on", "posts", "--on", "posts"], "named twice"),
        (["train", "--task", "film", "--train-rows", "0"], "--train-rows"),
        (["evaluate"], "no task given"),
        (["predict", "nowhere"], "no prompt here"),
        (["train", "--task", "film", "--out", ""], "--out: is empty"),
        (["train", "--task", "film", "--out="], "--out: is empty"),
        (["train", "--task", "film", "--seeds", "1000000000000"], "at most 1,000"),
        (["train", "--resume", "runs/a", "--steps", "5"], "--steps: cannot be given with --resume"),
        (["train", "--resume", "runs/a", "--method", "prefix-tuning"], "--method: cannot be given with --resume"),
        (["train", "--resume", "runs/a", "--label-words", "0=a"], "--label-words: cannot be given with --resume"),
        (["pretrain", "--resume", "backbones/a", "--steps", "5"], "--steps: cannot be given with --resume"),
        (["adapt", "nano", "--resume", "backbones/a"], "checkpoint: cannot be given with --resume"),
        (["pretrain", "--objective", "prefix-lm=x", "--tokens", "t", "--out", "o"], "NAME=WEIGHT"),
        (["train", "--task", "film", "--track", "paper"], "track paper: there is no such tracker"),
        (["train", "--resume", "runs/a", "--track", "mlflow"], "--track: cannot be given with --resume"),
        (["evaluate", "--on", "film", "--scoring", "x"], "'--scoring': 'x' is not one of 'rank', 'generate'"),
        (["nonsense"], "nonsense"),
        (["nonsense"], "(`preface --help` shows what there is)"),
        (["compare", "cross-domain", "--recipe", "nope", "--out", "x"], "neither shipped"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[object], says: str, call: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
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
    content: str | bytes, says: str, call: Called, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = call("train", "--task", file, "--out", tmp_path / "r")
    assert code == 2
    assert "bad.csv" in err
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_launcher_of_what_is_not_shared(call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would do the whole, and write over the others."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call("evaluate", "--on", "posts", "--zero-shot")
    assert code == 2
    assert "evaluate: a launcher has started several processes" in err
    for verb in ("train", "pretrain", "adapt"):
        assert call(verb, "--help")[0] == 0

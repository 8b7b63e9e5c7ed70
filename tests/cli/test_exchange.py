"""`export` and `import`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Called


def test_a_prompt_goes_out_and_comes_back(call: Called, tmp_path: Path) -> None:
    code, _, err = call(
        "train", "--task", "film", "--method", "prompt-tuning", "--length", 2, "--learning-rate", 1e-2, "--steps", 1,
        "--batch-size", 4, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    for format, name in (("peft", "peft"), ("numpy", "prompt.npy")):
        code, out, err = call("export", tmp_path / "run", "--format", format)
        assert code == 0, err
        assert out.split() == ["written", str(tmp_path / "run" / name)]
    arguments = ["import", tmp_path / "run" / "peft", "--task", "film", "--cue", "Mood:", "--out", tmp_path / "ours"]
    code, out, err = call(*arguments)
    assert code == 0, err
    assert f"evaluate {tmp_path / 'ours'}" in out.replace("\n", "")
    code, out, err = call("evaluate", tmp_path / "ours", "--json")
    assert code == 0, err
    code, _, err = call(*arguments)
    assert (code, "is there already" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "nowhere", "--format", "peft"], "no prompt here"),
        (["export", "nowhere", "--format", "onnx"], "one of peft, numpy, vllm"),
        (["export", "nowhere"], "--format"),
        (["export", "nowhere", "--format", "numpy", "--texts", "new.csv"], "no other format does"),
        (["export", "nowhere", "--format", "numpy", "--skip-bad-rows"], "skip-bad-rows: says how texts are read"),
        (["import", "nowhere", "--task", "film", "--out", "o"], "there is nothing"),
        (["import", ".", "--task", "film", "--out", "o"], "no prompt of PEFT here"),
        (["import", ".", "--task", "sst3", "--out", "o"], "sst3"),
        (["import", ".", "--out", "o"], "--task"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[object], says: str, call: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert says in err
    assert "Traceback" not in err


def test_help_lists_the_formats(call: Called) -> None:
    _, out, _ = call("export", "--help")
    assert all(f"{format}:" in out for format in ("peft", "numpy", "vllm"))

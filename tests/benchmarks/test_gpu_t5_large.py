"""The GPU benchmark at the tiny shape on a CPU: every line is measured, and unequal losses end it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from preface.prompts import Prompts

ARGUMENTS = ["--shape", "tiny", "--device", "cpu", "--steps", "1", "--warmup", "1", "--rows", "32"]
NUMBERS = ["step_seconds", "job_seconds", "ratio_to_peft_best", "peak_bytes", "operations", "rate", "floor_share"]


@pytest.fixture
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("peft")
    return load("gpu_t5_large")


def test_every_line_is_measured(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    benchmark.main([*ARGUMENTS, "--out", str(out)])  # has compared the losses, or it would have exited
    found = json.loads(out.read_text())
    ours = [item for item in found if item["side"] == "Preface"]
    peers = {(item["kind"], item["what"].split(", ")[1], item["dtype"]) for item in found if item["side"] == "PEFT"}
    assert [(item["what"], item["prompts"]) for item in ours] == [
        ("decoder prefix of 20, states kept", 1),
        ("prefix of 20 at all sites", 1),
        ("prompt of 100", 1),
        ("eight decoder prefixes of 20, states kept", 8),
    ]
    assert len(peers) == len(found) - len(ours) == 12
    for item in found:
        assert all(item[name] > 0 for name in NUMBERS), item
        assert {"torch", "transformers", "peft"} <= item["versions"].keys()
        assert item["hardware"]
    assert [item["encoding_seconds"] is not None for item in ours] == [True, False, False, True]
    for item in ours:
        encoding = item["encoding_seconds"] or 0
        assert item["job_seconds"] == pytest.approx(21_000 * item["step_seconds"] + encoding)
    for kind in ("prefix", "prompt"):  # PEFT's best is its own measure
        assert max(item["ratio_to_peft_best"] for item in found if item["side"] == "PEFT" and item["kind"] == kind) == 1
    assert "whole job" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_an_altered_prompt_ends_it(benchmark: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = benchmark.prompts_of

    def altered(peer: object, of: str, shape: dict[str, int]) -> Prompts:
        prompts: Prompts = original(peer, of, shape)
        factor = 1.1 if of == kind else 1.0
        return Prompts({name: tensor * factor for name, tensor in prompts.tensors.items()})

    monkeypatch.setattr(benchmark, "prompts_of", altered)
    with pytest.raises(SystemExit) as exit_:
        benchmark.main(ARGUMENTS)
    line = exit_.value.code  # Python prints a text and ends with code 1
    assert isinstance(line, str)
    assert line.startswith(f"the losses disagree: {kind} in float32")
    assert "\n" not in line


def test_operations_of_a_step(benchmark: ModuleType) -> None:
    shape = {"vocab_size": 11, "d_model": 3, "d_kv": 5, "num_heads": 2, "num_layers": 7, "d_ff": 4}
    attention, feed_forward = 4 * 3 * 10, 2 * 3 * 4
    decoder = 2 * 2 * 6 * (7 * (2 * attention + feed_forward) + 3 * 11)
    assert benchmark.operations(shape, 6, 100, 0) == decoder
    assert benchmark.operations(shape, 6, 100, 2) == decoder + 2 * 2 * 100 * 7 * (attention + feed_forward)

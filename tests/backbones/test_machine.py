"""What `preface doctor` says of machines that differ."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import psutil
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

import preface
from preface import extras
from preface.backbones import gguf, load, machine
from preface.backbones.load import dtype_named
from preface.backbones.machine import Finding, doctor


@pytest.fixture(autouse=True)
def _as_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFACE_DTYPE", "PREFACE_BACKBONE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFACE_CACHE", str(tmp_path / "cache"))


def findings() -> dict[str, Finding]:
    return {finding.about: finding for finding in doctor()}


def cpu(monkeypatch: pytest.MonkeyPatch, **able: Any) -> None:
    """A machine without a GPU whose CPU can do this."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)


@pytest.mark.parametrize(
    ("able", "chosen", "why"),
    [
        ({"avx2": True}, "float32", "emulated"),
        ({"avx512_bf16": True}, "bfloat16", "itself (avx512_bf16)"),
        ({"avx512_bf16": True, "amx_bf16": True}, "bfloat16", "itself (avx512_bf16, amx_bf16)"),
        ({"bf16": True}, "bfloat16", "itself (bf16)"),
    ],
)
def test_the_precision_is_the_one_that_is_taken(
    able: dict[str, bool], chosen: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(monkeypatch, **able)
    precision = findings()["precision"]
    assert precision.found == f"{chosen} for --dtype auto"
    assert why in precision.means
    assert dtype_named("auto", torch.device("cpu")) == getattr(torch, chosen)


@pytest.mark.parametrize(
    ("given", "able", "advice"),
    [
        ("bfloat16", {}, "; float32 would be faster"),
        ("float32", {"amx_bf16": True}, "; bfloat16 would be faster"),
        ("float32", {}, None),
    ],
)
def test_a_precision_that_is_set_is_judged(
    given: str, able: dict[str, bool], advice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(monkeypatch, **able)
    monkeypatch.setenv("PREFACE_DTYPE", given)
    precision = findings()["precision"]
    assert precision.found.startswith(given)
    assert f"PREFACE_DTYPE={given} says so" in precision.means
    assert precision.means.endswith(advice) if advice else "faster" not in precision.means


def test_settings_that_are_wrong_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFACE_DTYPE", "half")
    monkeypatch.setenv("PREFACE_KEEP_CONTEXTS", "much")
    found = findings()
    assert found["precision"].found == found["cache"].found == "cannot be told"
    assert "half" in found["precision"].means
    assert "much" in found["cache"].means
    assert found["versions"].found.startswith("Python ")


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(machine, "device_named", lambda name: torch.device("cuda"))
    found = findings()
    assert found["GPU"].found.startswith("H200, 80.0 GB, 70.0 GB free (and 1 more")
    assert found["precision"].found.startswith("bfloat16")
    assert "GPU multiplies" in found["precision"].means


def test_processor_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, cpu_name="A Chip")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"total": 16 * 2**30, "available": 8 * 10**9}))
    found = findings()
    assert found["processor"].found == "A Chip, 8 cores, 1 thread in torch"
    assert "OMP_NUM_THREADS" in found["processor"].means
    assert found["memory"].found == "16.0 GB, 7.5 GB free"
    assert "2.0 billion" in found["memory"].means  # of 4 bytes


def test_the_cache_is_measured(tmp_path: Path) -> None:
    assert "0.0 GB" in findings()["cache"].found  # it is not there yet
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "contexts").mkdir(parents=True)
    with (tmp_path / "cache" / "contexts" / "a.states").open("wb") as file:
        file.truncate(3 * 2**29)
    assert findings()["cache"].found.startswith(f"{tmp_path / 'cache'}, 1.5 GB")


def test_the_backbone_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"")
    monkeypatch.setattr(gguf, "smollm2", lambda: None)
    backbone = findings()["backbone"]
    assert backbone.found.startswith(f"{load.SHIPPED} by default")
    assert gguf.INSTALL in backbone.means
    monkeypatch.setattr(gguf, "smollm2", lambda: file)
    assert "dequantised once" in findings()["backbone"].means
    gguf._folder(file).mkdir(parents=True)
    backbone = findings()["backbone"]
    assert backbone.found == "smollm2 by default; smollm2 is installed"
    assert "ready" in backbone.means


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings()["serve"].found == "installed"
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("uvicorn", "peft") else True)
    found = findings()
    assert found["serve"].found == "lacks uvicorn"
    assert "pip install 'preface[peft]'" in found["peft"].means


class Hub:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def model_info(self, name: str, timeout: float) -> Any:
        return self.answer()


def _raising(error: Exception) -> Any:
    def answer() -> None:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda: None, "answers"),
        (
            _raising(HfHubHTTPError("busy", response=httpx.Response(503, request=httpx.Request("GET", "https://hub")))),
            "answers",
        ),
        (_raising(OSError("no such host")), "out of reach (no such host)"),
        (lambda: time.sleep(3), "out of reach (no answer within 0.2 seconds)"),
    ],
    ids=["yes", "an error of its own", "no network", "hangs"],
)
def test_the_hub(answer: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(answer))
    monkeypatch.setattr(machine, "HUB_SECONDS", 0.2)
    began = time.monotonic()
    assert says in findings()["hub"].found
    assert time.monotonic() - began < 2


def test_a_hub_that_is_not_to_be_asked_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("it was asked"))
    assert findings()["hub"].found == "out of reach (HF_HUB_OFFLINE is set)"


def test_it_is_public() -> None:
    assert preface.doctor is doctor

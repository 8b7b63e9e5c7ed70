from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from preface import extras
from preface.cli import serve
from preface.errors import UserError
from preface.methods import PrefixTuning
from tests.cli.conftest import Called


def test_mistakes(call: Called, tmp_path: Path) -> None:
    for arguments, says in (
        ([tmp_path / "none"], "no folder here"),
        ([tmp_path, "--host", "0.0.0.0"], "--open-to-all"),
        ([tmp_path, "--host", "example.org"], "--open-to-all"),
        ([tmp_path, "--host", "0.0.0.0", "--keys", tmp_path / "keys.yaml"], "cannot be read"),
        ([tmp_path, "--runs", tmp_path / "none"], "no folder here"),
        ([tmp_path, "--keep-texts", "much"], "much"),
        ([tmp_path, "--replicas", "2"], "give --ray too"),
        ([tmp_path, "--max-texts", "0"], "greater than or equal to 1"),
    ):
        code, _, err = call("serve", *arguments, "--backbone", "nano")
        assert code == 2, err
        assert says in err
        assert "Traceback" not in err


def test_what_is_not_installed(call: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "uvicorn" else True)
    code, _, err = call("serve", tmp_path)
    assert code == 2
    assert "pip install 'preface[serve]'" in err


def test_numbers_of_replicas() -> None:
    assert serve._bounds(None) is None
    assert (serve._bounds("2"), serve._bounds("1-8")) == ((2, 2), (1, 8))
    for wrong in ("0", "", "-1", "3-2", "1-", "1-x", "two"):
        with pytest.raises(UserError, match=f"^replicas {wrong}: write how many"):
            serve._bounds(wrong)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_loopback(host: str) -> None:
    assert serve._is_loopback(host)


def test_serves_until_it_is_told_to_stop(tmp_path: Path, nano: object) -> None:
    from tests.serving.making import put

    put(tmp_path / "film", nano, PrefixTuning(length=2, sites=("decoder",)))  # type: ignore[arg-type]
    command = [sys.executable, "-m", "preface", "serve", str(tmp_path), "--backbone", "nano", "--port", "0"]
    environment = os.environ | {"PREFACE_DTYPE": "float32"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        lines: list[str] = []
        until = time.monotonic() + 120
        while time.monotonic() < until and not (lines and "running on" in lines[-1]):
            lines.append(server.stderr.readline())
        assert "1 prompt of" in "".join(lines)
        port = int(re.findall(r":(\d+)", lines[-1])[-1])
        asked = {"model": "film", "input": "a fine film"}
        said = httpx.post(f"http://127.0.0.1:{port}/classify", json=asked, timeout=60)
        assert said.json()["data"][0]["label"] in ("negative", "positive")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)

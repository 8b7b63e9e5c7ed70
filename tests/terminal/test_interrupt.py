from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from preface.terminal import interrupt
from preface.terminal.interrupt import stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_request_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in interrupt.SIGNALS]
    with stop_requested() as stop:
        assert not stop()
        signal.raise_signal(number)
        signal.raise_signal(number)  # at once: passed on by a launcher
        assert stop()
    assert [signal.getsignal(each) for each in interrupt.SIGNALS] == before


def test_a_second_request_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_requested():
        signal.raise_signal(signal.SIGINT)
        later = time.monotonic() + 2 * interrupt.PATIENCE
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requested() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_needs_no_torch() -> None:
    code = "import sys, preface.terminal.interrupt, preface.terminal.progress; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

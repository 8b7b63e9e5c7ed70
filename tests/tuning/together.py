"""Trainings that one process does, and several together: `torchrun -m tests.tuning.together FOLDER`.

`FOLDER/together.json` says which: for each its folder, how it is spread, and the arguments of `preface.train`; and at
which step the second process of one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import preface
from preface.methods import method_named
from preface.tuning import loop
from preface.tuning.population import Population
from preface.tuning.processes import Processes


def train(out: Path, wanted: dict[str, Any], spread: str | None) -> None:
    fields = dict(wanted)
    method = method_named(fields.pop("method"))(**fields.pop("config", {}))
    preface.train(fields.pop("backbone"), fields.pop("task"), method, dtype="float32", device="cpu", out=out,
                  spread=spread, **fields)  # fmt: skip


def main(folder: Path) -> None:
    loop.LOG_EVERY, loop.CHECKPOINT_SECONDS = 1, 0.0
    for name, wanted in json.loads((folder / "together.json").read_text()).items():
        fields = dict(wanted)
        spread, killed_at = fields.pop("spread"), fields.pop("killed_at", None)
        if fields.get("resume"):
            preface.train(resume=folder / name, spread=spread)
            continue
        if killed_at is not None:
            step = Population.step

            def dying(self: Population, number: int, done: float, last: int = killed_at, step: Any = step) -> int:
                if number == last and self.processes.index == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(self, number, done)

            Population.step = dying  # type: ignore[method-assign]
        train(folder / name, fields, spread)
    assert Processes.here("cpu", "auto").count == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))

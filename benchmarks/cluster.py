"""What it costs to serve through Ray Serve: `preface serve`, and the same with one replica, asked in turn over HTTP.

    python benchmarks/cluster.py [--backbone nano] [--rounds 5]

Both run on this machine the whole time. A round asks each of them with one caller and with eight, and each way about
texts that are new and about one that has been read. Medians over the rounds are printed.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from statistics import median

import httpx
from serving import Texts, put

from preface.backbones.load import load_backbone

SECONDS = 4.0
"""Of each side's part of a round."""
MOST = 10_000
"""Texts that are asked about in that time."""


@contextmanager
def server(folder: Path, *options: str) -> Iterator[httpx.Client]:
    """A client of a server in a process of its own."""
    command = [sys.executable, "-m", "preface", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
            with httpx.Client(base_url=address, timeout=60) as client:
                yield client
        finally:
            process.terminate()


def asked(client: httpx.Client, callers: int, texts: Iterator[str]) -> tuple[float, float]:
    """Requests a second, and the median of their milliseconds."""
    until = time.monotonic() + SECONDS

    def ask(_: int) -> list[float]:
        took = []
        while (began := time.monotonic()) < until:
            client.post("/classify", json={"model": "p0", "input": next(texts)}).raise_for_status()
            took.append(1000 * (time.monotonic() - began))
        return took

    with ThreadPoolExecutor(callers) as pool:
        took = [each for some in pool.map(ask, range(callers)) for each in some]
    return len(took) / SECONDS, median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    measured: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        put(Path(place) / "p0", load_backbone(given.backbone), 0)
        how = ("--backbone", given.backbone)
        with server(Path(place), *how) as plain, server(Path(place), *how, "--replicas", "1", "--ray", "local") as ray:
            sides = [("plain", plain), ("--ray", ray)]
            for number in range(given.rounds + 1):  # the first is for warming up
                for callers in (1, 8):
                    for kind in ("new texts", "one text"):
                        new = Texts(100 * number + callers)(MOST)
                        for side, client in random.sample(sides, 2):
                            texts = iter(new) if kind == "new texts" else repeat("a warm, funny film")
                            found = asked(client, callers, texts)
                            if number:
                                measured.setdefault((kind, callers, side), []).append(found)
    for (kind, callers, side), found in sorted(measured.items()):
        rates, milliseconds = zip(*found, strict=True)
        print(f"{kind:10}{callers:3} callers {side:6}{median(rates):8.1f} a second{median(milliseconds):8.1f} ms")


if __name__ == "__main__":
    main()

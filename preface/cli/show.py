"""Tables for the terminal that belong to one verb alone, and what `preface methods` measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from preface.backbones.base import Backbone
from preface.methods import METHODS, PrefixTuning
from preface.methods.init import Initializer
from preface.records.results import Cell
from preface.records.run import Run
from preface.tasks import TaskInfo
from preface.tuning.bench import Timing, fastest
from preface.tuning.finish import METRIC_NAMES
from preface.tuning.recipe import validated
from preface.tuning.step import answers_of


def run_cells(run: Run) -> list[Cell]:
    """A run's development scores, one cell a member."""
    record, result = run.record, run.result
    return [
        Cell(
            backbone=record.backbone,
            method=record.method.name,
            train_task=record.task.name,
            eval_task=record.task.name,
            metric=record.task.metric,
            value=member.score,
            n=record.splits.validation.rows,
            seed=member.seed,
            trained_parameters=result.trained_parameters,
            seconds=result.seconds / len(run.members),
            split="validation",
            details={"learning_rate": member.learning_rate, "step": member.step, "loss": member.loss},
        )
        for member in run.members
    ]


def run_table(run: Run) -> Table:
    """Development scores by learning rate, over seeds."""
    record, result = run.record, run.result
    rows, metric = record.splits.validation.rows, METRIC_NAMES[record.task.metric]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{record.method.name} on {record.task.name}, {record.backbone} frozen",
        caption=f"{metric[0].upper()}{metric[1:]} in percent on {rows:,} development rows (the commonest label alone: "
        f"{100 * result.majority:.1f}).\n{result.trained_parameters:,} trained parameters a prompt, "
        f"{result.steps:,} steps, {result.seconds:,.0f} s."
        + (f"\nThe backbone saw labelled examples of {', '.join(saw)}." if (saw := record.backbone_saw) else ""),
    )
    for name in ("learning rate", "seeds", "mean", "± deviation", "best"):
        table.add_column(name, justify="right")
    chosen = run.best_rate[0].learning_rate
    for row in result.rates:
        rate = row.learning_rate
        best = max(member.score for member in run.members if member.learning_rate == rate)
        deviation = "–" if row.deviation is None else f"{100 * row.deviation:.1f}"
        cells = f"{rate:g}", str(row.n), f"{100 * row.mean:.1f}", deviation, f"{100 * best:.1f}"
        table.add_row(*cells, style="bold" if rate == chosen else "")
    return table


def list_methods(
    backbone: Backbone, *, length: int | None = None, sites: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Each method with the parameters of one prompt on a backbone: trained, stored, and, measured by one backward
    pass, those that receive a gradient."""
    rows = []
    for name, method in METHODS.items():
        variants: list[dict[str, Any]] = [{}]
        if method is PrefixTuning:
            variants.append({"reparametrize": backbone.width})
        for variant in variants:
            fields = {
                "length": length,
                "sites": sites if method is PrefixTuning else None,
                "init": "vocabulary",
                **variant,
            }
            configured = validated(method, {key: value for key, value in fields.items() if value is not None})
            receiving = _gradient_receiving(backbone, configured)
            rows.append(
                {"method": name, "summary": method.summary, "length": configured.length, **variant}
                | asdict(configured.counts(backbone))
                | {"gradient_receiving": receiving}
            )
    return rows


def _gradient_receiving(backbone: Backbone, method: Any) -> int:
    """How many of one prompt's trained numbers have a gradient other than zero after one backward pass."""
    module = method.build(backbone, Initializer.parse(method.init), [0])
    inputs, mask = backbone.pad(backbone.tokenize(["a frozen book and its preface"], 32)[0])
    answers, labels = answers_of(backbone.answer_pieces(["positive"]), backbone.lead_in)
    prompts = module()
    backbone.losses(backbone.read(inputs, mask, prompts), answers, labels, prompts).mean().backward()
    return sum(int((p.grad != 0).sum()) for p in module.parameters() if p.grad is not None)


def methods_table(rows: Sequence[dict[str, Any]], backbone: Backbone) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Parameters of one prompt on {backbone.name}, {backbone.parameters:,} frozen",
        caption="with gradient: measured by one backward pass",
    )
    for name in ("method", "length", "trained", "stored", "with gradient"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
    for row in rows:
        through = f"\n  through an MLP of {row['reparametrize']}" if "reparametrize" in row else ""
        numbers = (row["length"], row["trained"], row["stored"], row["gradient_receiving"])
        table.add_row(f"{row['method']}\n  {row['summary']}{through}", *(f"{number:,}" for number in numbers))
    return table


def tasks_table(found: Sequence[TaskInfo]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Tasks, and where their rows come from")
    for name in ("task", "rows from", "what it is"):
        table.add_column(name, no_wrap=name == "task")
    for task in found:
        places: dict[str, list[str]] = {}
        for split, place in task.places.items():
            places.setdefault(place, []).append(split)
        everywhere = len(places) == 1 and len(task.places) == 3
        shown = (place if everywhere else f"{place}: {', '.join(splits)}" for place, splits in places.items())
        table.add_row(task.name, "\n".join(shown), task.description)
    return table


def backbone_table(folder: Path) -> Table:
    """What a backbone that was just made is worth: held-out losses, probes, speed."""
    record = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
    result = record["result"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{folder}: {record['parameters']:,} parameters",
        caption=f"{result['tokens']:,} tokens in {result['steps']:,} steps, {result['tokens_per_second']:,.0f}/s, "
        f"{result['seconds'] / 60:,.1f} min in all. Losses in nats a token; noise: hidden text without sentinels.",
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in result["validation"].items():
        table.add_row(f"validation loss, {name}", f"{value:.3f}" if value is not None else "not finite")
    for name, value in result["probes"].items():
        table.add_row(f"small prefix on {name}, development", f"{100 * value:.1f} %")
    return table


def timings_table(timings: Sequence[Timing], name: str) -> Table:
    """Every setting, and which is fastest."""
    best = fastest(timings)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"A training step of {name}, {best.device}",
        caption=f"Fastest for one prompt: {best.method}, {best.dtype}, {best.threads} threads.\n"
        "new: a step whose inputs were not encoded yet; epoch: all prompts side by side.",
    )
    for head in ("method", "prompts", "dtype × threads", "step s", "new s", "rows/s", "epoch s"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for timing in timings:
        table.add_row(
            timing.method,
            str(timing.members),
            f"{timing.dtype} × {timing.threads}",
            f"{timing.step_seconds:.3f}",
            f"{timing.first_seconds:.3f}",
            f"{timing.rows_a_second:,.0f}",
            f"{timing.epoch_seconds:,.1f}",
            style="bold" if timing is best else None,
        )
    return table

"""The card of a finished backbone, and the picture of its losses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preface.records.atomic import write_atomically
from preface.records.metrics import read_metrics


def series(lines: list[dict[str, Any]], kind: str) -> dict[str, list[tuple[int, float]]]:
    """Points (tokens, value) of each name under `kind`: `train` (loss of text), `validation` or `probe`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.get(kind, {}).items():
            value = value["text_loss"] if isinstance(value, dict) else value
            if value is not None:
                found.setdefault(name, []).append((line["tokens"], value))
    return found


def draw_losses(folder: Path) -> None:
    """`loss.png`: training and validation losses, and probes, against tokens."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    lines = read_metrics(folder)
    probes = series(lines, "probe")
    figure = Figure(figsize=(9, 4.2 if not probes else 7), layout="constrained")
    panels = figure.subplots(2 if probes else 1, 1, sharex=True, squeeze=False)[:, 0]
    colors = {"span-corruption": "C0", "prefix-lm": "C1", "instructions": "C2", "noise": "C3"}
    for name, points in series(lines, "train").items():
        tokens, values = zip(*_thinned(points), strict=True)
        panels[0].plot(tokens, values, color=colors[name], alpha=0.35, linewidth=1, label=f"{name}, training, text")
    for name, points in series(lines, "validation").items():
        tokens, values = zip(*points, strict=True)
        label = "span-corruption, validation, text" if name == "noise" else f"{name}, validation"
        panels[0].plot(tokens, values, color=colors[name], marker=".", label=label)
    panels[0].set_ylabel("loss, nats a token")
    panels[0].legend(fontsize=8)
    for name, points in probes.items():
        tokens, values = zip(*points, strict=True)
        panels[1].plot(tokens, values, marker="o", label=f"small prefix on {name}, development")
        panels[1].set_ylabel("score")
        panels[1].legend(fontsize=8)
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("tokens")
    panels[-1].xaxis.set_major_formatter(EngFormatter())
    figure.savefig(folder / "loss.png", dpi=120)


def _thinned(points: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """Means over neighbours, so that a long run stays readable."""
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def card(record: Mapping[str, Any]) -> str:
    """The README of a backbone's folder, from its record: sizes, recipe, data, results."""
    result = record["result"]
    decoder_only = record["config"]["d_kv"] is None
    kind = record["config"]["model_type"] if decoder_only else "T5"
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'text-generation' if decoder_only else 'text2text-generation'}",
        "---",
        f"# {record['name']}",
        "",
        f"A {kind} of {record['parameters']:,} parameters ({_sizes(record['config'])}), "
        + (f"trained on from `{record['began_from']}`" if record.get("began_from") else "trained from scratch")
        + " with Preface. It loads with `preface.load_backbone`, and with Transformers' "
        f"`{'AutoModelForCausalLM' if decoder_only else 'AutoModelForSeq2SeqLM'}` and `AutoTokenizer`.",
        "",
        "## What it has seen",
        "",
    ]
    for ancestor in record["ancestors"]:
        lines.append(f"- first, as `{ancestor['name']}`: {_food(ancestor, ancestor['tokens'])}")
    lines.append(f"- {'then' if record['ancestors'] else 'all'}: {_food(record, result['tokens'])}")
    if record["seen_tasks"]:
        lines.append(
            f"- **labelled examples** of {', '.join(record['seen_tasks'])}: none of these is a new domain for it, and "
            "what it does without a prompt is an instruction-tuned model's work"
        )
    else:
        lines.append("- no labelled example of any task")
    lines += ["", "## Result", "", "| measure | value |", "| --- | --- |"]
    lines += [f"| validation loss, {name} | {value} |" for name, value in result["validation"].items()]
    lines += [
        f"| small prefix on {name}, development score | {value:.3f} |" for name, value in result["probes"].items()
    ]
    lines += [
        f"| tokens a second | {result['tokens_per_second']:,.0f} ({record['ran_on']}, {record['dtype']}) |",
        "",
        "`noise` is the loss of hidden text alone, without sentinels and `</s>`. Losses are in nats a token.",
        "",
        "![losses](loss.png)",
        "",
        "## Recipe",
        "",
        *_made_by(record["command"]),
        "```json",
        json.dumps({name: record[name] for name in ("config", "settings", "versions")}, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """`README.md` and `loss.png`."""
    draw_losses(folder)
    write_atomically(folder / "README.md", card(record))


def _made_by(command: Sequence[str] | None) -> list[str]:
    """The lines that show it; none where a backbone was made in Python."""
    return [] if command is None else ["```sh", shlex.join(command), "```", ""]


def _sizes(config: Mapping[str, Any]) -> str:
    if config["d_kv"] is None:
        return (
            f"{config['num_hidden_layers']} layers of {config['hidden_size']}, {config['num_attention_heads']} heads, "
            f"vocabulary {config['vocab_size']:,}"
        )
    return (
        f"{config['num_layers']} + {config['num_decoder_layers']} layers, d_model {config['d_model']}, "
        f"{config['num_heads']} heads × {config['d_kv']}, d_ff {config['d_ff']} {config['feed_forward_proj']}, "
        f"vocabulary {config['vocab_size']:,}, {'tied' if config['scale_decoder_outputs'] else 'untied'} embeddings"
    )


def _food(record: Mapping[str, Any], tokens: int) -> str:
    """Objectives, text, tasks, and what was kept out."""
    settings, text = record["settings"], record.get("text")
    shares = " and ".join(f"{share:g} {name}" for name, share in _shares(settings["objectives"]).items())
    words = [f"{tokens:,} tokens of {shares}, {settings['batch_size']} × {settings['input_length']} a step"]
    if text:
        words.append("text of " + ", ".join(f"`{name}`" for name in text["sources"]))
        dropped = ", ".join(f"{task} {count:,}" for task, count in text["dropped"].items()) or "none"
        if text["keep_out"]:
            words.append(f"without the evaluation inputs of {', '.join(text['keep_out'])} (pieces dropped: {dropped})")
    if record["tasks"]:
        words.append(f"labelled examples of {', '.join(record['tasks'])}")
    return "; ".join(words)


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: round(weight / total, 3) for name, weight in weights.items()}

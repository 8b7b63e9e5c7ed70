"""Draw the pictures of the documentation: `make docs`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
INK, TRAINED, FROZEN, EDGE = "#1f2933", "#f6d8a8", "#cfe0ee", "#7b8794"


def architecture(path: Path) -> None:
    """From a method's prompts to the frozen model that reads and answers."""
    figure = Figure(figsize=(10, 5.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 52)
    axes.axis("off")

    def box(x: float, y: float, width: float, height: float, title: str, text: str, colour: str) -> None:
        axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.4", facecolor=colour, edgecolor=EDGE)
        )
        axes.text(x + width / 2, y + height - 1.2, title, ha="center", va="top", weight="bold", color=INK, fontsize=10)
        axes.text(x + width / 2, y + height - 4.4, text, ha="center", va="top", color=INK, fontsize=8.5)

    def arrow(start: tuple[float, float], end: tuple[float, float], label: str = "", shift: float = 1.2) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": EDGE, "lw": 1.4})
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + shift)
        axes.text(*middle, label, ha="center", va="bottom", color=INK, fontsize=8, style="italic")

    box(
        3,
        33,
        20,
        13,
        "methods",
        "prompt tuning · prefix tuning\na module that makes P prompts\nparameters [P, …], float32",
        TRAINED,
    )
    box(
        3,
        8,
        20,
        13,
        "tasks · batching",
        "rows of text, label words\nbatches by length\nrows [B]: the prompt of each",
        FROZEN,
    )
    box(
        36,
        33,
        20,
        13,
        "prompts",
        "embeddings [P, n, d]\nSITE.keys, SITE.values\n[P, L, H, n, d_head]",
        TRAINED,
    )
    axes.add_patch(FancyBboxPatch((64, 4), 33, 44, boxstyle="round,pad=0.4", facecolor="white", edgecolor=EDGE, lw=1.4))
    axes.text(80.5, 47, "backbone: frozen, T5 family", ha="center", va="top", weight="bold", color=INK, fontsize=10)
    box(67, 32, 27, 10, "read: the encoder", "self-attention: prefix + tokens", FROZEN)
    box(
        67,
        17,
        27,
        10,
        "answer: the decoder",
        "self-attention: prefix + labels\ncross-attention: prefix + states",
        FROZEN,
    )
    note = "one attention function, registered with\nTransformers, takes prompts and rows"
    axes.text(80.5, 11.5, note, ha="center", va="top", color=INK, fontsize=8.5, style="italic")
    box(
        36,
        8,
        20,
        13,
        "labelling · tuning",
        "label words in one answer\nloss, AdamW and stopping\neach by member",
        TRAINED,
    )
    arrow((23.8, 39.5), (35.2, 39.5), "makes")
    arrow((56.8, 39.5), (66.2, 37), "rows", shift=1.6)
    arrow((56.8, 36), (66.2, 24))
    arrow((80.5, 31.2), (80.5, 27.8))
    arrow((23.8, 14.5), (35.2, 14.5), "examples")
    arrow((66.2, 19), (56.8, 15.5), "logits")
    arrow((40, 21.8), (16, 32.2), "gradients", shift=2.0)
    figure.savefig(path)


if __name__ == "__main__":
    architecture(HERE / "architecture.svg")

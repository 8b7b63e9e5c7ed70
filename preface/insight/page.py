"""The neighbourhood of a prompt as a page and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from preface.insight.neighbors import Neighborhood, Part, Position
from preface.pages import inline, write_page
from preface.pages.drawing import INK, style

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table

VIRTUAL, REAL = "#d9480f", "#2f8fdb"


def write_neighbors(found: Neighborhood, path: Path) -> None:
    """Write one page that needs nothing else."""
    write_page(
        path,
        "neighbors.html",
        title=f"What the prompt is near to: {found.title}",
        found=found,
        went=went,
        parts=[(part, None if part.few else inline(partial(map_of, part)), findings(part)) for part in found.parts],
    )


def findings(part: Part) -> list[str]:
    """A sentence for each thing worth saying first."""
    said = _of_few(part) if part.few else [*_of_labels(part), *_of_clusters(part)]
    if anchors := [position.index for position in part.positions if position.anchor]:
        said.insert(0, f"{numbered(anchors, 'Anchor')}: words of the pattern, which stay as they are and do not count.")
    moved = [position.moved for position in part.trained if position.moved is not None]
    if moved:
        said.append(f"From its start a token went {fmean(moved):.2f} times the length it had there.")
    return said


def numbered(positions: Sequence[int], what: str = "token") -> str:
    """`token 3`, `tokens 3, 5 and 7`, as the table numbers them."""
    *others, last = [str(position + 1) for position in positions]
    return f"{what}s {', '.join(others)} and {last}" if others else f"{what} {last}"


def went(position: Position) -> str:
    """How far, for a table."""
    if position.anchor:
        return "stays"
    return "–" if position.moved is None else f"{position.moved:.2f}"


def _of_few(part: Part) -> list[str]:
    return [
        f"Real text makes keys of only {part.pool} words here, too few for the nearest to say much: label words are "
        "not counted, clusters not looked for, and there is no map."
    ]


def _of_labels(part: Part) -> list[str]:
    """Which label words are near."""
    said = []
    for label, positions in part.labels.items():
        where = f"near {len(positions)} of {len(part.trained)} virtual tokens" if positions else "near none of them"
        said.append(f"The label word “{label}” is {where}.")
    return said


def _of_clusters(part: Part) -> list[str]:
    """Whether neighbours are near to each other."""
    tight = fmean(position.tightness for position in part.trained if position.tightness is not None)
    return [
        f"Neighbours of one token have a cosine of {tight:.2f} among themselves, where {part.chance:.2f} is what any "
        "have: " + ("they form clusters." if tight > part.chance + 0.1 else "they are no cluster.")
    ]


def map_of(part: Part) -> Figure:
    """Virtual tokens as numbers among their neighbours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    count = len(part.positions)
    virtual, real = part.points[:count].tolist(), part.points[count:].tolist()
    axes.plot(*zip(*real, strict=True), "o", markersize=3, color=REAL, markeredgewidth=0, alpha=0.7)
    for (x, y), word in list(zip(real, part.words, strict=True))[:60]:
        axes.annotate(word, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=7, color=INK)
    axes.plot(*zip(*virtual, strict=True), "s", markersize=11, color=VIRTUAL, markeredgewidth=0, alpha=0.85)
    for (x, y), position in zip(virtual, part.positions, strict=True):
        axes.annotate(str(position.index + 1), (x, y), ha="center", va="center", fontsize=7, color="white")
    axes.set_xticks([])
    axes.set_yticks([])
    style(axes)
    return figure


def rich_table(part: Part) -> Table:
    """A part for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(part.name), caption=Text("\n".join(findings(part))))
    table.add_column("token", justify="right")
    table.add_column("nearest, by cosine", overflow="fold")
    table.add_column("among themselves", justify="right")
    table.add_column("went", justify="right")
    for position in part.positions:
        near = "  ".join(f"{neighbor.word} {neighbor.cosine:.2f}" for neighbor in position.neighbors)
        tightness = "–" if position.tightness is None else f"{position.tightness:.2f}"
        token = f"{'anchor ' if position.anchor else ''}{position.index + 1}"
        table.add_row(token, Text(near), tightness, went(position))
    return table

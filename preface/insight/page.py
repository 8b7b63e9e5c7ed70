"""The neighbourhood of a prompt as a page and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preface.insight.neighbors import Neighborhood, Part, Position
from preface.pages import inline, write_page
from preface.pages.drawing import INK, style

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table

CLUSTER = 0.1
"""Neighbours whose mean cosine is that much above any words' are a cluster."""
VIRTUAL, ANCHOR, REAL = "#d9480f", "#7a6a55", "#2f8fdb"
UNTRAINED = (
    "This prompt is its own beginning, untrained: no evaluation on the development rows was better than the one before "
    "the first step."
)
SHEET, MARGIN, FONT = (520, 376), 24, 7
"""Of a map, in points."""


def write_neighbors(found: Neighborhood, path: Path) -> None:
    """Write one page that needs nothing else."""
    write_page(
        path,
        "neighbors.html",
        title=f"What the prompt is near to: {found.title}",
        found=found,
        untrained=UNTRAINED if found.untrained else None,
        went=went,
        parts=[(part, None if part.few else inline(partial(map_of, part)), findings(part)) for part in found.parts],
    )


def findings(part: Part) -> list[str]:
    """A sentence for each thing worth saying first."""
    said = _of_few(part) if part.few else [*_of_labels(part), *_of_clusters(part)]
    if anchors := [position.index for position in part.positions if position.anchor]:
        said.insert(0, f"Anchors, words of the pattern that stay as they are and do not count: {numbered(anchors)}.")
    moved = [position.moved for position in part.trained if position.moved is not None]
    if moved:
        said.append(f"From its start a token went {fmean(moved):.2f} times the length it had there.")
    return said


def numbered(positions: Sequence[int]) -> str:
    """`3`, or `3, 5 and 7`, as the table numbers them."""
    *others, last = [str(position + 1) for position in positions]
    return f"{', '.join(others)} and {last}" if others else last


def named(positions: Sequence[int]) -> str:
    """`token 3`, or `tokens 3, 5 and 7`."""
    return f"token{'s'[: len(positions) > 1]} {numbered(positions)}"


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
    """Which label words are near, and which were at the start."""
    said = []
    for label, near in part.labels.items():
        where = f"{len(near)} of {len(part.trained)} virtual tokens ({numbered(near)})" if near else "none of them"
        since = "" if part.began is None else _since(part.began[label], near)
        said.append(f"The label word “{label}” is near {where}{since}.")
    return said


def _since(began: Sequence[int], near: Sequence[int]) -> str:
    """Whether a label word is still near where it was the nearest."""
    kept = [place for place in began if place in near]
    if not began:
        return "; at the start it was the nearest of none"
    now = f"it still is near {named(kept)}" if kept else "it no longer is near"
    return f"; at the start it was the nearest of {named(began)}, and {now}"


def _of_clusters(part: Part) -> list[str]:
    """Whether the neighbours of a token are near to each other, and which tokens have the same ones."""
    tightness = {position.index: position.tightness or 0.0 for position in part.trained}
    tight = [place for place, cosine in tightness.items() if cosine > part.chance + CLUSTER]
    where = f"clusters at {len(tight)} of {len(tightness)} tokens ({numbered(tight)})" if tight else "no cluster"
    said = [
        f"Neighbours of one token have a mean cosine of {fmean(tightness.values()):.2f} among themselves, where any "
        f"words have {part.chance:.2f}: {where}."
    ]
    for group in part.groups:
        words = [neighbor.word for neighbor in part.positions[group[0]].neighbors]
        common = [word for word in words if all(word in part.positions[place].words for place in group)]
        said.append(
            f"{named(group).capitalize()} share most of their neighbours{': ' if common else ''}{', '.join(common)}."
        )
    return said


def map_of(part: Part) -> Figure:
    """Virtual tokens as numbers among their neighbours, on a sheet that is measured in points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SHEET[0] / 72, SHEET[1] / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, SHEET[0]), ylim=(0, SHEET[1]), xticks=[], yticks=[])
    style(axes)
    low, high = part.points.min(0).values, part.points.max(0).values
    places = MARGIN + (part.points - low) / (high - low).clamp(min=1e-9) * (torch.tensor(SHEET) - 2 * MARGIN)
    count = len(part.positions)
    real = [(x, y) for x, y in places[count:].tolist()]
    axes.plot(*zip(*real, strict=True), "o", markersize=3, color=REAL, markeredgewidth=0, alpha=0.7)
    taken = [Box(x, y, 3, 3) for x, y in real]
    for group, box in merged(places[:count]):
        colour = ANCHOR if all(part.positions[place].anchor for place in group) else VIRTUAL
        around = {"boxstyle": "round,pad=0.3", "facecolor": colour, "linewidth": 0, "alpha": 0.85}
        axes.text(box.x, box.y, numbers(group), ha="center", va="center", fontsize=FONT, color="white", bbox=around)
        taken.append(box)
    for (x, y), word in list(zip(real, part.words, strict=True))[:60]:
        beside = free_beside(x, y, word, taken)
        if beside is None:
            continue
        axes.plot(*zip((x, y), beside.nearest(x, y), strict=True), color=INK, alpha=0.3, linewidth=0.6, zorder=0)
        axes.text(beside.x, beside.y, word, ha="center", va="center", fontsize=FONT, color=INK)
        taken.append(beside)
    return figure


@dataclass(frozen=True)
class Box:
    """A rectangle around a place."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def around(cls, x: float, y: float, text: str) -> Box:
        """What a line of text takes, about: the page draws it in a font of its own."""
        return cls(x, y, 0.62 * FONT * len(text), 1.3 * FONT)

    def meets(self, other: Box) -> bool:
        across, along = abs(self.x - other.x), abs(self.y - other.y)
        return 2 * across < self.width + other.width and 2 * along < self.height + other.height

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Of its places, to another."""
        across, along = self.width / 2, self.height / 2
        return max(self.x - across, min(x, self.x + across)), max(self.y - along, min(y, self.y + along))

    @property
    def inside(self) -> bool:
        """Whether it is all on the sheet."""
        return 2 * abs(self.x - SHEET[0] / 2) + self.width < SHEET[0] and (
            2 * abs(self.y - SHEET[1] / 2) + self.height < SHEET[1]
        )


def merged(places: Tensor) -> list[tuple[list[int], Box]]:
    """Positions at `places` `[n, 2]`, those together whose numbers would cover each other."""
    found: list[tuple[list[int], Box]] = []
    for index in range(len(places)):
        group, box = [index], _numbers_box([index], places)
        while (other := next((one for one in found if box.meets(one[1])), None)) is not None:
            found.remove(other)
            group = sorted([*other[0], *group])
            box = _numbers_box(group, places)
        found.append((group, box))
    return found


def _numbers_box(group: Sequence[int], places: Tensor) -> Box:
    x, y = places[list(group)].mean(0).tolist()
    box = Box.around(x, y, numbers(group))
    return replace(box, width=box.width + FONT, height=box.height + FONT / 2)


def numbers(group: Sequence[int]) -> str:
    """`3, 5, 7`; of more than five, how many more."""
    shown = group if len(group) <= 5 else group[:4]
    more = f" + {len(group) - len(shown)}" if len(shown) < len(group) else ""
    return ", ".join(str(place + 1) for place in shown) + more


def free_beside(x: float, y: float, word: str, taken: Sequence[Box]) -> Box | None:
    """Where a word covers nothing, as near to its place as can be; None: nowhere near."""
    size = Box.around(x, y, word)
    for away in (3, 10, 18, 28, 40, 54, 70):
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            box = replace(size, x=x + right * (away + size.width / 2), y=y + up * (away + size.height / 2))
            if box.inside and not any(box.meets(other) for other in taken):
                return box
    return None


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

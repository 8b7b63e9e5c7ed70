"""What all pictures have in common."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal
from warnings import catch_warnings, filterwarnings

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24303c"
"""Colour of the plot's text and lines, which a page replaces by that of its own text."""
COLOURS = ("#8b949e", "#2f8fdb", "#d9480f", "#12a150", "#9c5fd0", "#c99700", "#d6458f", "#1aa3a3", "#7a6a55")
MARKERS = ("D", "o", "s", "^", "v", "P", "X", "<", ">", "p")
"""By position, each in turn: neighbours are unlike in both, for the colour-blind, and ninety are all different."""


def styles_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name."""
    return dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))


def picture(draw: Callable[[], Figure], kind: str, transparent: bool = False) -> bytes:
    """A drawing as a file's bytes, `png` or `svg`; the same drawing gives the same bytes."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: smaller, and in the page's own font
        "svg.hashsalt": "preface",
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None
    file = io.BytesIO()
    with rc_context(settings), catch_warnings():
        # letters of all the world's scripts: a page draws them in fonts of its own, and nobody could do anything
        filterwarnings("ignore", "Glyph .* missing from font")
        draw().savefig(file, format=kind, dpi=160, transparent=transparent, metadata=metadata)
    return file.getvalue()


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """What markers and lines mean, above a figure of 7.2 inches, in as many columns as it has room for."""
    widths = [len(str(handle.get_label())) + 6 for handle in handles]  # in letters, the marker's room included
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles) if sum(widths) < 85 else max(1, 85 // max(widths)),
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def style(axes: Axes, grid: Literal["x", "both"] = "both") -> None:
    """A light grid below what is drawn; no frame and no ticks."""
    axes.grid(axis=grid, color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

"""How alike prompts are: a map of tasks, and a guide to which prompt another should begin from (Vu et al. 2022, "SPoT:
Better Frozen Model Adaptation through Soft Prompt Transfer", section 4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from preface.errors import UserError
from preface.pages import inline, write_page
from preface.prompts import LABELS
from preface.records.card import SavedPrompt, load_prompt
from preface.records.run import Run

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True)
class Similarities:
    """Every prompt beside every other."""

    names: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    """Of the prompts' mean tokens."""
    folders: tuple[str, ...]

    def nearest(self, index: int) -> int:
        """The other prompt that is most alike."""
        others = [place for place in range(len(self.names)) if place != index]
        return max(others, key=lambda place: self.cosines[index][place])

    def as_json(self) -> dict[str, Any]:
        return {"names": self.names, "cosines": self.cosines, "folders": self.folders}


def similarity(runs: Sequence[Run | str | Path]) -> Similarities:
    """The cosine of the mean virtual tokens of prompts of one backbone and one kind.

    A token of input embeddings is one vector; a token of a prefix is its keys and values in all layers and heads.

    Args:
        runs: finished runs, of which the best prompt counts, or prompts' folders.

    Raises:
        UserError: fewer than two, or prompts that cannot be compared.
    """
    saved = [run.prompt() if isinstance(run, Run) else load_prompt(run) for run in runs]
    if len(saved) < 2:
        raise UserError(f"similarity: at least two prompts are compared, and there is {len(saved)}")
    for one in saved:
        if one.card.ensemble is not None:
            raise UserError(f"{one.folder}: is an ensemble; give the prompts it is made of")
        if one.card.fingerprint != saved[0].card.fingerprint:
            raise UserError(f"{one.folder}: is a prompt of another backbone than {saved[0].folder}")
        if _carriers(one) != _carriers(saved[0]):
            raise UserError(
                f"{one.folder}: has {', '.join(_carriers(one))}, and {saved[0].folder} has "
                f"{', '.join(_carriers(saved[0]))}; prompts of one method and the same sites are compared"
            )
    directions = normalize(torch.stack([mean_token(one) for one in saved]), dim=1)  # [P, w]
    cosines = (directions @ directions.T).tolist()
    return Similarities(_names(saved), tuple(map(tuple, cosines)), tuple(str(one.folder) for one in saved))


def mean_token(saved: SavedPrompt) -> Tensor:
    """The mean over virtual tokens, all that a token has as one vector `[w]`."""
    tensors = saved.prompts.tensors_of(0)
    return torch.cat([tensors[name].float().mean(-2).flatten() for name in _carriers(saved)])


def _carriers(saved: SavedPrompt) -> list[str]:
    """All but label vectors, which are of one task's labels."""
    tensors = saved.prompts.tensors_of(0)
    return sorted(name for name, tensor in tensors.items() if tensor.is_floating_point() and name != LABELS)


def _names(saved: Sequence[SavedPrompt]) -> tuple[str, ...]:
    """The tasks; with the folder, where several are of one task."""
    each = [(one.card.task.name, _folder(one)) for one in saved]
    names = []
    for task, folder in each:
        alike = [other for name, other in each if name == task]
        names.append(task if len(alike) == 1 else f"{task} ({_short(folder, alike)})")
    return tuple(names)


def _folder(saved: SavedPrompt) -> Path:
    """The run's, whose best prompt lies one below it, or the prompt's own."""
    folder = saved.folder.resolve()
    return folder.parent if folder.name == "prompt" else folder


def _short(folder: Path, folders: Collection[Path]) -> str:
    """Its name, after so many of the folders above it as tell it from the others."""
    others = [other for other in folders if other != folder]
    ends = (folder.parts[-length:] for length in count(1))
    return str(Path(*next(end for end in ends if all(other.parts[-len(end) :] != end for other in others))))


def write_similarity(found: Similarities, path: Path) -> None:
    """Write one page that needs nothing else."""
    near = [(name, found.names[found.nearest(index)]) for index, name in enumerate(found.names)]
    write_page(path, "similarity.html", found=found, near=near, picture=inline(lambda: heat(found)))


def heat(found: Similarities) -> Figure:
    """A square a pair, the darker the more alike."""
    from matplotlib.figure import Figure

    count = len(found.names)
    figure = Figure(figsize=(1.6 + 0.62 * count, 1.2 + 0.55 * count), layout="constrained")
    axes = figure.subplots()
    axes.imshow(found.cosines, cmap="Blues", vmin=min(0.0, *(min(row) for row in found.cosines)), vmax=1)
    for row, values in enumerate(found.cosines):
        for column, value in enumerate(values):
            ink = "white" if value > 0.6 else "#24303c"
            axes.annotate(f"{value:.2f}", (column, row), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(count), found.names, rotation=40, ha="right")
    axes.set_yticks(range(count), found.names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def rich_table(found: Similarities) -> Table:
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = "Cosines of the prompts' mean virtual tokens."
    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption))
    table.add_column("")
    for name in found.names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, row in zip(found.names, found.cosines, strict=True):
        table.add_row(Text(name), *(f"{value:.2f}" for value in row))
    return table

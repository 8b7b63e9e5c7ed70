"""What is said below a table: what its cells do not show, and a reader should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from preface.records.results import DRAWN, Cell, ways_computed


def notes_of(cells: Sequence[Cell]) -> list[str]:
    """All that cells themselves give reason to say."""
    return [*wordings(cells), *seen(cells), *mixed(cells)]


def wordings(cells: Sequence[Cell]) -> list[str]:
    """A line for each wording that the bare backbone was given, and how it was chosen; one for all that draws chose."""
    chosen = [cell for cell in cells if cell.details.get("instruction_chosen_on")]
    lines = {
        f"{cell.method}: worded {cell.details['instruction']!r}, which did best of several "
        f"({cell.details['instruction_chosen_on']})."
        for cell in chosen
        if DRAWN not in cell.details
    }
    drawn: dict[str, dict[int | None, str]] = {}
    for cell in chosen:
        if DRAWN in cell.details:
            drawn.setdefault(cell.method, {})[cell.seed] = cell.details[DRAWN]
    for method, by_draw in drawn.items():
        times = Counter(by_draw.values()).most_common()
        each = ", ".join(f"{wording!r} of {count}" for wording, count in times)
        lines.add(f"{method}: the rows of each of {len(by_draw)} draws chose its wording: {each}.")
    return sorted(lines)


def mixed(cells: Sequence[Cell]) -> list[str]:
    """A line where cells were not all computed alike, as when an experiment went on elsewhere, or in another dtype."""
    if len(ways := ways_computed(cells)) < 2:
        return []
    said = "; ".join(f"{', '.join(methods)}: {way}" for way, methods in ways.items())
    return [f"Not all was computed alike, which scores may differ by, and seconds all the more. {said}."]


def seen(cells: Sequence[Cell]) -> list[str]:
    """A line for each backbone that was trained on labelled examples: its domains are not as new as they seem."""
    saw = {cell.backbone: tasks for cell in cells if (tasks := cell.details.get("backbone_saw"))}
    return [
        f"{backbone} was itself trained on labelled examples of {', '.join(tasks)}: these are no new domains for it, "
        "and what it does without a prompt is an instruction-tuned model's work."
        for backbone, tasks in saw.items()
    ]

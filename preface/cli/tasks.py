"""`tasks`: what ships, and where its data are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from preface.cli.app import verb
from preface.cli.common import Json, empty_table, show, show_json
from preface.cli.options import data_fields

if TYPE_CHECKING:
    from rich.table import Table

    from preface.tasks import TaskInfo


@verb(options=data_fields("data"))
def tasks(data_options: dict[str, Any], as_json: Json = False) -> None:
    """List the shipped tasks, and where their data are found."""
    import preface

    found = preface.list_tasks(**data_options)
    if as_json:
        show_json([asdict(task) for task in found])
    else:
        show(tasks_table(found))


def tasks_table(found: Sequence[TaskInfo]) -> Table:
    columns = ("task", "rows from", "what it is")
    table = empty_table("Tasks, and where their rows come from", columns, text=columns)
    table.columns[0].no_wrap = True
    for task in found:
        places: dict[str, list[str]] = {}
        for split, place in task.places.items():
            places.setdefault(place, []).append(split)
        everywhere = len(places) == 1 and len(task.places) == 3
        shown = (place if everywhere else f"{place}: {', '.join(splits)}" for place, splits in places.items())
        table.add_row(task.name, "\n".join(shown), task.description)
    return table

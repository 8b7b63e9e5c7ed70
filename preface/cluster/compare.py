"""Experiments over a cluster: each column is a task of Ray's, and its cells are kept as it is done.

A task is a column and not a single cell: all seeds of a column are one population, which reads each batch once, and
search, training and evaluations share what was read of the texts. In tasks of their own they would each do that anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from preface.cluster.join import joined, share, work_in
from preface.errors import UserError, first_line
from preface.experiments.matrix import SPEC, Compute, Unit
from preface.extras import check_installed
from preface.records.results import Cell
from preface.terminal.interrupt import Interrupted, stop_requested
from preface.terminal.progress import say

RETRIES = 3
"""How often a column is given to another worker where one was lost; it goes on from its last checkpoint."""
PATIENCE = 60.0
"""Seconds in which workers that are to stop can end a step and write a checkpoint."""


def on_cluster(address: str | None = None) -> Compute:
    """What `compare_cross_domain` takes as `compute` to spread the columns of an experiment over a Ray cluster.

    Args:
        address: of the cluster (`preface.cluster.join.joined`).

    Raises:
        UserError: Ray is not installed.
    """
    check_installed("cluster", "ray")
    return lambda units: _spread(units, address)


def _spread(units: Sequence[Unit], address: str | None) -> Iterator[tuple[Unit, list[Cell]]]:
    """All units at once, as far as the cluster has room, each as it is done. Raises UserError, Interrupted."""
    import ray

    if not units:
        return
    with joined(address), stop_requested() as stop:
        how = {
            **share(len(units), units[0].setting.device),
            "max_retries": RETRIES,
            "retry_exceptions": [Interrupted],  # of a worker that somebody asked to end
        }
        running = {}
        for unit in units:
            there = replace(unit, setting=unit.setting.bare())
            running[ray.remote(_cells).options(name=str(unit), **how).remote(there, os.getcwd())] = unit
        try:
            while running:
                for done in ray.wait([*running], timeout=1.0)[0]:
                    unit = running.pop(done)
                    yield unit, _result(done, unit)
                    say(f"{unit}: done, {len(units) - len(running)} of {len(units)}")
                if running and stop():
                    raise Interrupted("stopped; what was measured is kept, and the same command goes on")
        finally:
            _stop([*running])


def _cells(unit: Unit, folder: str) -> list[Cell]:
    """In a worker: all cells of a unit. Raises UserError."""
    work_in(folder, unit.setting.folder / SPEC)
    return [cell for cells in unit.cells() for cell in cells]


def _result(done: Any, unit: Unit) -> list[Cell]:
    """The cells that a worker measured. Raises UserError."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        cells: list[Cell] = ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(f"{unit}: {error.cause}") from error
        raise
    except RayError as error:
        raise UserError(
            f"{unit}: its worker was lost, and so were those that took it up ({first_line(error)}); what was measured "
            "is kept, and the same command goes on"
        ) from error
    return cells


def _stop(running: list[Any]) -> None:
    """End what still runs, as Ctrl-C does here: between two steps, with a checkpoint."""
    import ray

    for task in running:
        ray.cancel(task)
    if running:
        ray.wait(running, num_returns=len(running), timeout=PATIENCE)

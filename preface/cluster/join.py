"""Joining a cluster, and what a worker on it has in common with the process that gives it work."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preface.errors import UserError, first_line

ADVICE = "`ray status` on its first machine says whether it runs"


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be part of a cluster, unless this process is already.

    Args:
        address: of the cluster; None: what RAY_ADDRESS says, else one that was started on this machine, else a new one
            of this machine alone, which ends with the block.

    Raises UserError if no cluster answers there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if there := address or os.environ.get("RAY_ADDRESS"):
        _check(there)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here nobody is told
    ours = {name: value for name, value in os.environ.items() if name.startswith("PREFACE_")}
    environment = {"TOKENIZERS_PARALLELISM": "false", **ours}
    try:
        ray.init(address, logging_level=logging.WARNING, runtime_env={"env_vars": environment})
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"ray {there or ''}: cannot be joined ({first_line(error)}); {ADVICE}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise UserError where no machine answers at an address; Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):
        return
    if not port.isdecimal() or "/" in host or not host:
        raise UserError(f"ray {address}: is no address; write HOST:PORT, as `ray start --head` shows it")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray {address}: no cluster answers ({first_line(error)}); {ADVICE}") from error


def share(pieces: int, device: str) -> dict[str, Any]:
    """What one of so many pieces of work takes: a GPU where the cluster has some, and its part of the cores, none more
    than the smallest machine has."""
    import ray

    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
    gpus = device.startswith(("auto", "cuda")) and any(machine.get("GPU") for machine in machines)
    return {"num_cpus": max(1, min(min(cores), sum(cores) // pieces)), "num_gpus": int(gpus)}


def work_in(folder: str, needed: Path) -> None:
    """In a worker: paths mean what they mean in `folder`, where the command was called, and `needed` is seen.

    Raises UserError.
    """
    try:
        os.chdir(folder)
        needed.stat()
    except OSError as error:
        raise UserError(
            f"the machine {platform.node()} has no {folder if error.filename == folder else needed}; call this in a "
            "folder that all machines share, with --out in one too"
        ) from error

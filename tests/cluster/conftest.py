"""Two machines on one: a cluster of Ray's with two nodes, each with one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Thread

import psutil
import pytest

pytest.importorskip("ray")


@pytest.fixture(scope="package")
def cluster() -> Iterator[str]:
    """Its address."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFACE_DTYPE", "float32")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        made.add_node(**node)
        yield made.address
        made.shutdown()


def at_worker(name: str, begun: Callable[[], bool], act: Callable[[psutil.Process], object]) -> Thread:
    """Do something to the process of a task whose name begins so, of a cluster that was started here, as soon as
    `begun`."""

    def wait() -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            found = [p for p in psutil.Process().children(recursive=True) if _title(p).startswith(f"ray::{name}")]
            if found and begun():
                act(found[0])
                return
            time.sleep(0.02)

    thread = Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _title(process: psutil.Process) -> str:
    """What a process calls itself: Ray's say which task they are at."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preface.backbones.base import Backbone
from preface.methods import PrefixTuning
from preface.records.hub import FILES
from tests.records.hub_server import hub_of
from tests.serving.making import put


@pytest.fixture
def prompt(nano: Backbone, tmp_path: Path) -> Path:
    return put(tmp_path / "film", nano, PrefixTuning(length=2, sites=("decoder",)))


@pytest.fixture
def hub(prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, bytes]]]:
    """What a stand-in for the hub has; the client asks it, and has a cache of its own."""
    files = {name: (prompt / name).read_bytes() for name in FILES}
    repositories = {"somebody/film": {**files, "README.md": b"not needed"}, "somebody/empty": {"README.md": b""}}
    with hub_of(repositories) as address:
        constants = "huggingface_hub.constants."
        monkeypatch.setattr(f"{constants}HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}ENDPOINT", address)
        monkeypatch.setattr(
            f"{constants}HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "cache"))
        yield repositories

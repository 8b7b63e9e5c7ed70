from __future__ import annotations

from pathlib import Path

import pytest

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.serving.store import Store
from tests.serving.making import mixed


@pytest.fixture(scope="session", params=["t5", "causal"])
def served_backbone(request: pytest.FixtureRequest, checkpoint_folder: Path, causal_folder: Path) -> Backbone:
    folder = checkpoint_folder if request.param == "t5" else causal_folder
    return load_backbone(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def served_folder(served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    mixed(folder, served_backbone)
    return folder


@pytest.fixture
def store(served_folder: Path, served_backbone: Backbone) -> Store:
    return Store(served_folder, served_backbone)

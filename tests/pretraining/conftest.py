"""A small corpus: the training texts of an embedded task, which no evaluation has."""

from __future__ import annotations

import pytest

from preface.tasks import load_split


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [example.text for example in load_split("film", "train").examples]

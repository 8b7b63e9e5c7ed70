"""A small corpus: the training texts of an embedded task, which no evaluation has."""

from __future__ import annotations

from pathlib import Path

import pytest

from preface.pretraining.tokens import tokenize
from preface.tasks import load_split


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [example.text for example in load_split("film", "train").examples]


@pytest.fixture(scope="session")
def tokens_folder(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus as tokens of the embedded tokenizer, with at most a twentieth held out."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "film.txt").write_text("\n".join(texts) + "\n")
    return tokenize([folder / "film.txt"], folder / "tokens", tokenizer="nano", held_out=2000).folder

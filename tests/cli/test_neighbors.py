"""`neighbors`: where its page is written, and what is said first."""

from __future__ import annotations

from pathlib import Path

import pytest

import preface
from preface.insight.neighbors import Neighborhood
from tests.cli.conftest import Called


def nothing(untrained: bool) -> Neighborhood:
    return Neighborhood("Near to nothing", "nano", "prompt-tuning", "film", None, untrained, ())


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a prompt is near to, whichever it is."""
    monkeypatch.setattr(preface, "neighbors", lambda run, **_: nothing(untrained="untrained" in str(run)))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "page"),
    [
        (["runs/film"], "runs/film/neighbors.html"),
        (["hub:somebody/film"], "neighbors.html"),
        (["hub:somebody/film", "--out", "pages/film.html"], "pages/film.html"),
    ],
)
def test_the_page_lies_in_the_folder_or_here_for_a_prompt_of_the_hub(
    arguments: list[object], page: str, call: Called, tmp_path: Path
) -> None:
    code, out, err = call("neighbors", *arguments)
    assert (code, err) == (0, "")
    assert out.split() == ["page", page]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [page]


def test_a_file_that_is_no_page_is_not_replaced(call: Called, tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    data.write_text("text,label\n")
    code, _, err = call("neighbors", "runs/film", "--out", data)
    assert code == 2
    assert "mine.csv: is a file that is no page" in err
    assert data.read_text() == "text,label\n"


def test_a_prompt_that_is_its_own_beginning_is_said_to_be(call: Called, tmp_path: Path) -> None:
    code, out, _ = call("neighbors", "hub:somebody/untrained")
    assert code == 0
    said = "This prompt is its own beginning, untrained"
    assert out.startswith(said)
    assert said in (tmp_path / "neighbors.html").read_text()

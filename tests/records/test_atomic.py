from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from preface.errors import UserError
from preface.records.atomic import write_atomically, write_folder


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="notes: is a folder; name the file to write"):
        write_atomically(tmp_path / "notes", "a page")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "notes"]


@pytest.mark.parametrize("name", [".", "sub/.."])
def test_nothing_takes_the_place_of_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the current folder; name another place"):
        write_folder(Path(name), "prompt", {}, {})
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing)  # when the new file is there already
    with pytest.raises(OSError, match=r"page\.html"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

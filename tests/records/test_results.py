from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from preface.errors import UserError
from preface.records import results
from preface.records.atomic import write_atomically
from preface.records.results import Cell, installed_versions, latest, read_cells, write_cells


def cell() -> Cell:
    return Cell("nano", "prefix-tuning", "film", "posts", "accuracy", 0.5, 150, 0, 10, 1.5)


def test_cells_come_back_as_they_were(tmp_path: Path) -> None:
    assert read_cells(tmp_path / "results.json") == []
    write_cells(tmp_path / "results.json", [cell()])
    assert read_cells(tmp_path / "results.json") == [cell()]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    for content in ("{", '[{"colour": "red"}]', "[1]", "{}", "null"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(UserError, match=r"results\.json"):
            read_cells(tmp_path / "results.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_atomically(file, "old")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, "new")
    assert file.read_text() == "old"


def test_versions_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert {"python", "torch", "transformers", "preface"} <= set(installed_versions.__wrapped__())


def test_cells_of_other_configurations_do_not_drop_one_another() -> None:
    details = [{"learning_rate": 0.1}, {"learning_rate": 0.2}, {"learning_rate": 0.1, "scoring": "generate"}]
    cells = [replace(cell(), details=each) for each in details]
    again = replace(cells[0], value=0.9, seconds=3.0)
    assert latest([*cells, again]) == [again, *cells[1:]]
    assert len({each.identity for each in [*cells, replace(cell(), seed=1), replace(cell(), split="train")]}) == 5


def test_cells_that_several_add_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path) -> list[Cell]:
        found = read_cells(path)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(results, "read_cells", slowly)
    with ThreadPoolExecutor(4) as threads:
        for seed in range(8):
            threads.submit(results.add_cells, tmp_path / "results.json", [replace(cell(), seed=seed)])
    assert {each.seed for each in read_cells(tmp_path / "results.json")} == set(range(8))

"""What is known by being there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from preface import methods
from preface.registry import subclasses


class Parent: ...


class Near(Parent): ...


def test_a_module_in_the_package_is_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "__init__.py").touch()
    lines = f"from {__name__} import Near\n\nclass Far(Near): ...\n"
    (tmp_path / "rooms" / "far.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    assert [kind.__name__ for kind in subclasses(Parent, "rooms")] == ["Near", "Far"]
    del sys.modules["rooms"], sys.modules["rooms.far"]


def test_every_file_of_methods_is_a_method() -> None:
    files = {path.stem for path in Path(methods.__path__[0]).glob("*.py")} - {"__init__", "base", "init"}
    assert {method.__module__.rpartition(".")[2] for method in methods.METHODS.values()} == files

"""The notebooks of the documentation: every cell runs as written, with trainings cut to two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from tests.test_docs import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
MOST_BYTES = 200_000


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@each_notebook
def test_every_cell_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_steps: None) -> None:
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    variables: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(notebook), 1):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), variables)
    plt.close("all")


@each_notebook
def test_what_is_shown_is_what_one_run_gave(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds, "a picture and a table"
    assert all(output["output_type"] != "error" for output in outputs)


@each_notebook
def test_nothing_is_kept_of_the_machine_that_ran_it(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert not any(place in text for place in ("site-packages", "/home/", "/tmp/", "/root/", "/work/"))
    assert all(cell["metadata"] == {} for cell in code_cells(notebook))
    assert '"stderr"' not in text

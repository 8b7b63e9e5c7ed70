"""Runs and prompts as they lie on disk: those of the first version, and those that somebody has altered."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.records.atomic import read_folder, write_folder
from preface.records.run import RECORD, Run, RunRecord, command_of

FIRST = Path(__file__).parent / "fixtures" / "run"
"""A run that version 0.1.0 made of a tiny backbone (see `tests.conftest`), before records were typed."""
WORDS = {"yes": "positive", "no": "negative"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "few.jsonl"
    path.write_text('{"text": "the good thing", "label": "yes"}\n{"text": "the bad thing", "label": "no"}\n')
    return path


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    file = folder / RECORD
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(FIRST, folder / "run"))


def test_a_run_of_the_first_version_loads_and_is_used(tiny: Backbone, rows: Path, tmp_path: Path) -> None:
    run = Run.open(FIRST)
    assert [(member.learning_rate, member.seed) for member in run.members] == [(0.02, 0), (0.2, 0)]
    assert (run.best.index, run.record.max_input_tokens, run.record.label_words) == (0, 512, ("positive", "negative"))
    written = json.loads((FIRST / RECORD).read_text())
    # which it had no word for, and no use
    written["task"] |= {"cue": "Answer:", "label_step": None, "answer_pieces": 32, "mixture": [], "wording": "{text}"}
    written["task"] |= {"multi_label": False, "label_separator": ";"}
    written["task"]["fields"]["group"], written["task"]["source"]["files"]["nested"] = [], {}
    written["task"]["source"]["where"] = {}
    assert run.record.as_json() == written | {"revision": None, "shots": None, "draw": 0, "track": []}
    cells = preface.evaluate(FIRST, [rows], backbone=tiny, prompts="all", out=tmp_path / "out")
    assert [(cell.method, cell.train_task, cell.n) for cell in cells] == [("prefix-tuning", "rows.jsonl", 2)] * 2
    (line,) = preface.predict(FIRST, ["one text"], backbone=tiny)
    assert WORDS[line["original"]] == line["label"]


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (["preface", "train", "--out", "my run"], "preface train --out 'my run'"),
        (["/usr/bin/preface", "train"], "preface train"),
        (["/site-packages/preface/__main__.py", "train"], "preface train"),
        (["own.py", "--my-own-flag", "3"], None),  # as earlier versions recorded what was made in Python
        ([], None),
        (None, None),
    ],
)
def test_only_a_command_of_preface_is_told(tmp_path: Path, recorded: list[str] | None, told: str | None) -> None:
    assert command_of(altered(copied(tmp_path), lambda content: content.update(command=recorded))) == told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(backbone=None), "backbone"),
        (lambda c: c.update(label_words=dict(enumerate("ab"))), "label_words"),
        (lambda c: c["result"]["members"].clear(), r"result\.members"),
        (lambda c: c["result"]["members"].pop(0), "result: members are not numbered"),
        (lambda c: c["result"]["members"][1].pop("seed"), r"result\.members\.1\.seed"),
        (lambda c: c["result"].update(best=2), "result: best is 2, but there are 2 members"),
        (lambda c: c["result"].update(best=-1), r"result\.best"),
        (lambda c: c["result"].update(best="first"), r"result\.best"),
        (lambda c: c["result"]["members"].reverse(), "result: members are not numbered"),
        (lambda c: c["recipe"].pop("max_input_tokens"), "recipe.max_input_tokens"),
        (lambda c: c.update(recipe=[]), "recipe"),
        (lambda c: c["splits"].pop("train"), r"splits\.train"),
        (lambda c: c.update(task="film"), "task"),
        (lambda c: c.update(train_rows=-1), "train_rows"),
    ],
)
def test_altered_records_are_refused_by_file_and_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    folder = altered(copied(tmp_path), change)
    with pytest.raises(UserError, match=rf"run\.json: damaged, or of another version \(({said})") as caught:
        Run.open(folder)
    assert "\n" not in str(caught.value)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "..", "/", "\x00", "é", {}, [], [[]], {"a": 1}, [1, 2], "best", 10**30])
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to each value in it."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    below = [place for key, value in items for place in places(value, (*path, key))]
    return [path, *below] if path else below


def alter(content: dict[str, Any], data: st.DataObject) -> None:
    """Change, remove or rename some of what a record says."""
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(content)))
        inner: Any = content
        for key in place[:-1]:
            inner = inner[key]
        match data.draw(st.sampled_from(["set", "set", "remove", "add"])):
            case "set":
                inner[place[-1]] = deepcopy(data.draw(VALUES))
            case "remove":
                del inner[place[-1]]
            case "add" if isinstance(inner, dict):
                inner[data.draw(st.text(max_size=3))] = deepcopy(data.draw(VALUES))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_record_says_is_used_or_refused_in_one_line(tiny_float32: Backbone, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        rows = folder / "few.jsonl"
        rows.write_text('{"text": "the good thing", "label": "yes"}\n{"text": "the bad thing", "label": "no"}\n')
        which = data.draw(st.sampled_from(["run", "prompt"]))
        if which == "run":
            altered(folder, lambda content: alter(content, data))
        else:
            for part in ("prompt", "prompts/00"):
                tensors, content = read_folder(FIRST / part, "prompt")
                alter(content, data)
                write_folder(folder / part, "prompt", tensors, content)
        backbone = data.draw(st.sampled_from([tiny_float32, None]))
        for use in (
            lambda: Run.open(folder).best_rate,
            lambda: preface.evaluate(folder, [rows], backbone=tiny_float32, label_words=WORDS),
            lambda: preface.evaluate(folder / "prompt", backbone=backbone),
            lambda: list(preface.predict(folder, ["one text"], backbone=backbone)),
        ):
            with suppress(UserError):
                use()


def test_a_record_is_written_as_it_is_read(tmp_path: Path) -> None:
    record = RunRecord.read(FIRST)
    record.write(tmp_path)
    assert RunRecord.read(tmp_path) == record

from __future__ import annotations

import os
import shutil
from pathlib import Path
from threading import Event, Thread

import pytest

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.records.hub import FILES
from preface.serving.store import Served, Store, UnknownPromptError
from tests.serving.making import put


@pytest.fixture
def method(served_backbone: Backbone) -> PrefixTuning:
    return PrefixTuning(length=3, sites=(served_backbone.answer_site,))


@pytest.fixture
def folder(tmp_path: Path, served_backbone: Backbone, method: PrefixTuning) -> Path:
    for number in range(3):
        put(tmp_path / "store" / f"p{number}", served_backbone, method, number)
    return tmp_path / "store"


def test_prompts_are_loaded_once_and_the_longest_unused_let_go(folder: Path, served_backbone: Backbone) -> None:
    store = Store(folder, served_backbone)
    first = store.get("p0")
    assert store.get("p0") is first
    store.loaded.keep = 2 * first.prompts.bytes
    store.get("p1")
    store.get("p0")
    store.get("p2")
    assert list(store.loaded) == ["p0", "p2"]
    store.loaded.keep = 0
    assert store.get("p1").name == "p1"
    assert list(store.loaded) == ["p1"]


def test_what_another_program_writes_is_known_at_once(
    folder: Path, served_backbone: Backbone, method: PrefixTuning
) -> None:
    store = Store(folder, served_backbone)
    before = store.get("p0")
    put(folder / "p0", served_backbone, method, 9)
    put(folder / "new", served_backbone, method, 8)
    assert store.get("p0") is not before
    assert store.names() == ["new", "p0", "p1", "p2"]
    shutil.rmtree(folder / "p0")
    with pytest.raises(UnknownPromptError, match="prompt p0: there is none of that name"):
        store.get("p0")
    assert "p0" not in store.loaded


def test_a_run_s_folder_is_its_best_prompt(folder: Path, served_backbone: Backbone, method: PrefixTuning) -> None:
    put(folder / "run" / "prompt", served_backbone, method, 4)
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    store = Store(folder, served_backbone)
    assert "run" in store.names()
    assert "empty" not in store.names()
    assert store.get("run").card.method.name == "prefix-tuning"


def test_damaged_and_foreign_prompts_are_refused_with_the_reason(
    folder: Path, served_backbone: Backbone, nano: Backbone
) -> None:
    (folder / "p0" / "prompt.safetensors").write_bytes(b"")
    put(folder / "foreign", nano, PrefixTuning(length=2, sites=("decoder",)))
    store = Store(folder, served_backbone)
    with pytest.raises(UserError, match="cut off or altered"):
        store.get("p0")
    with pytest.raises(UserError, match="does not fit"):
        store.get("foreign")
    assert store.get("p1")


def test_no_folder(tmp_path: Path, served_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="no folder here"):
        Store(tmp_path / "none", served_backbone)


def test_what_a_kill_left_is_put_right(folder: Path, served_backbone: Backbone) -> None:
    """As if killed between the two renames, in the middle of writing, and after the second rename."""
    (folder / "p0").rename(folder / ".p0.old")
    shutil.copytree(folder / "p1", folder / ".p1.99999999")
    shutil.copytree(folder / "p2", folder / ".p2.old")
    (folder / ".zshrc.old").write_text("somebody's own")
    (folder / ".cache.1").mkdir()
    own = folder / f".p1.{os.getpid()}"
    own.mkdir()
    store = Store(folder, served_backbone)
    assert store.names() == ["p0", "p1", "p2"]
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {own.name, ".zshrc.old", ".cache.1"}
    assert store.get("p0")


def test_what_is_more_than_a_prompt_is_not_lost_by_a_request(folder: Path, served_backbone: Backbone) -> None:
    store = Store(folder, served_backbone)
    files = {name: (folder / "p0" / name).read_bytes() for name in ("prompt.json", "prompt.safetensors")}
    (folder / "training" / "checkpoints").mkdir(parents=True)
    shutil.copytree(folder / "p1", folder / "run" / "prompt")
    (folder / "run" / "run.json").write_text("{}")
    for name in ("training", "run"):
        with pytest.raises(UserError, match="by hand"):
            store.add(name, files)
    (folder / "p1" / "evaluations").mkdir()  # as `preface evaluate` leaves beside a prompt
    with pytest.raises(UserError, match="by hand"):
        store.add("p1", files)
    for name in ("run", "p1"):
        with pytest.raises(UserError, match="by hand"):
            store.remove(name)
    assert (folder / "training" / "checkpoints").exists()
    assert store.get("run")


def test_no_prompt_has_the_name_of_the_backbone(folder: Path, served_backbone: Backbone, method: PrefixTuning) -> None:
    store = Store(folder, served_backbone)
    files = {name: (folder / "p0" / name).read_bytes() for name in FILES}
    with pytest.raises(UserError, match=f"{store.bare}: the backbone without a prompt is asked by that name"):
        store.add(store.bare, files)
    put(folder / store.bare, served_backbone, method, 5)  # by another program
    assert store.bare not in store.names()
    with pytest.raises(UnknownPromptError):
        store.get(store.bare)
    with pytest.raises(UserError, match="is asked by that name"):
        Store(folder, served_backbone)


def test_whoever_asks_is_not_told_where_prompts_lie(folder: Path, served_backbone: Backbone) -> None:
    tensors = folder / "p0" / "prompt.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^p0/prompt\.safetensors") as error:
        Store(folder, served_backbone).get("p0")
    assert str(folder) not in str(error.value)


def test_a_link_is_removed_and_not_what_it_leads_to(folder: Path, served_backbone: Backbone, tmp_path: Path) -> None:
    (folder / "p0").rename(tmp_path / "elsewhere")
    (folder / "p0").symlink_to(tmp_path / "elsewhere")
    store = Store(folder, served_backbone)
    assert store.get("p0")
    store.remove("p0")
    assert "p0" not in store.names()
    assert (tmp_path / "elsewhere" / "prompt.json").exists()


def test_others_are_answered_while_one_is_written(
    folder: Path, served_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(folder, served_backbone)
    begun, go_on = Event(), Event()
    load = store._load

    def slow(name: str, path: Path) -> Served:
        if path.name.startswith("."):
            begun.set()
            assert go_on.wait(60)
        return load(name, path)

    monkeypatch.setattr(store, "_load", slow)
    files = {name: (folder / "p1" / name).read_bytes() for name in FILES}
    writing = Thread(target=store.add, args=("p0", files))
    writing.start()
    assert begun.wait(60)
    old = store.get("p0")
    assert store.get("p2")
    go_on.set()
    writing.join(60)
    assert store.get("p0") is not old

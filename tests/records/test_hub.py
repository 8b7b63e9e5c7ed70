from __future__ import annotations

import json
from pathlib import Path

import pytest

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.records.card import load_prompt
from preface.records.hub import FILES, prompt_folder
from preface.serving.store import Store
from tests.cli.conftest import in_process
from tests.serving.making import put


def test_a_prompt_of_the_hub_is_as_one_in_a_folder(
    hub: object,
    prompt: Path,
    nano: Backbone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = prompt_folder("hub:somebody/film")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert load_prompt("hub:somebody/film").card == load_prompt(prompt).card
    expected = list(preface.predict(prompt, ["a fine film"], backbone=nano))
    assert list(preface.predict("hub:somebody/film", ["a fine film"], backbone=nano)) == expected
    texts = tmp_path / "texts.txt"
    texts.write_text("a fine film\n")
    code, said, heard = in_process(["predict", "hub:somebody/film", texts], capsys, monkeypatch)
    assert (code, heard) == (0, "")
    assert json.loads(said)["label"] == expected[0]["label"]
    (tmp_path / "prompts").mkdir()
    store = Store(tmp_path / "prompts", nano, also={"film": folder})
    assert store.names() == ["film"]
    assert store.get("film").card == load_prompt(prompt).card
    for change in (lambda: store.remove("film"), lambda: store.add("film", dict.fromkeys(FILES, b""))):
        with pytest.raises(UserError, match="in the server's own folder, and is not changed"):
            change()
    assert folder.is_dir()


def test_a_changed_prompt_is_fetched_again_and_a_silent_hub_s_from_the_cache(
    hub: dict[str, dict[str, bytes]], prompt: Path, nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prompt_folder("hub:somebody/film")
    other = put(tmp_path / "other", nano, PrefixTuning(length=3, sites=("decoder",)))
    hub["somebody/film"] = {name: (other / name).read_bytes() for name in FILES}
    second = prompt_folder("hub:somebody/film")
    assert second != first
    assert load_prompt(second).prompts.length("decoder") == 3
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert prompt_folder("hub:somebody/film") == second
    with pytest.raises(UserError, match="out of reach, and it is not in its cache"):
        prompt_folder("hub:somebody/new")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hub:somebody/none", "not on the Hugging Face hub"),
        ("hub:somebody/film/more", "not on the Hugging Face hub"),
        ("hub:", "not on the Hugging Face hub"),
        ("hub:somebody/empty", "no prompt here"),
    ],
)
def test_what_is_no_prompt_of_the_hub(hub: object, name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_prompt(name)


def test_names_that_clash(prompt: Path, nano: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rename one"):
        Store(tmp_path, nano, also={"film": prompt})
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="there is none in"):
        Store(tmp_path / "none", nano, also={"film": tmp_path / "nowhere"})

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from preface.errors import UserError
from preface.prompts import Prompts
from preface.records.checkpoint import KEEP, load_prompt, load_state, save_prompt, save_state


def save(folder: Path, step: int) -> None:
    save_state(folder, step, {"x": torch.full((3,), float(step))}, {"step": step})


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*"))


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    for step in (1, 2, 30):
        save(tmp_path, step)
    assert len(list(tmp_path.iterdir())) == KEEP
    tensors, state, refused = load_state(tmp_path)
    assert (float(tensors["x"][0]), state, refused) == (30.0, {"step": 30}, [])


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["truncate", "alter", "remove"])
def test_a_damaged_state_is_refused_and_the_one_before_is_used(tmp_path: Path, name: str, harm: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    file = newest(tmp_path) / name
    content = file.read_bytes()
    if harm == "truncate":
        file.write_bytes(content[:-7])
    elif harm == "alter":
        place = content.rindex(b"2") if name == "state.json" else len(content) - 1
        file.write_bytes(content[:place] + b"3" + content[place + 1 :])
    else:
        file.unlink()
    _, state, refused = load_state(tmp_path)
    assert state == {"step": 1}
    assert len(refused) == 1
    assert "step-00000002" in refused[0]


def test_no_whole_state_left(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (newest(tmp_path) / "state.json").write_text("{")
    with pytest.raises(UserError, match="no whole checkpoint"):
        load_state(tmp_path)


def test_a_half_written_folder_does_not_count(tmp_path: Path) -> None:
    """What a kill while writing leaves behind."""
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.123").mkdir()
    _, state, refused = load_state(tmp_path)
    assert (state, refused) == ({"step": 1}, [])


def test_an_altered_prompt_is_refused(tmp_path: Path) -> None:
    save_prompt(tmp_path / "p", Prompts({"embeddings": torch.ones(1, 2, 3)}), {"words": ["a"]})
    assert load_prompt(tmp_path / "p").card == {"words": ["a"]}
    card = json.loads((tmp_path / "p" / "prompt.json").read_text())
    (tmp_path / "p" / "prompt.json").write_text(json.dumps(card | {"words": ["b"]}))
    with pytest.raises(UserError, match="altered"):
        load_prompt(tmp_path / "p")


def test_saving_again_replaces(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_prompt(tmp_path / "p", Prompts({"embeddings": torch.full((1, 2, 3), value)}), {})
    assert float(load_prompt(tmp_path / "p").prompts.embeddings.mean()) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["p"]

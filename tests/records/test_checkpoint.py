from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from preface.errors import UserError
from preface.records.checkpoint import KEEP, load_state, save_state


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
def test_a_damaged_state_is_moved_aside_and_the_one_before_is_used(tmp_path: Path, name: str, harm: str) -> None:
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
    left = {path.name for path in newest(tmp_path).iterdir()}
    _, state, refused = load_state(tmp_path)
    assert state == {"step": 1}
    assert len(refused) == 1
    assert "step-00000002" in refused[0]
    assert {path.name for path in (tmp_path / "damaged-step-00000002").iterdir()} == left
    save(tmp_path, 2)
    (newest(tmp_path) / "state.json").write_text("{")
    load_state(tmp_path)
    assert (tmp_path / "damaged-step-00000002-1").is_dir()


def test_no_whole_state_left(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (newest(tmp_path) / "state.json").write_text("{")
    for _ in range(2):  # nor is the training begun anew without a word when it is tried again
        with pytest.raises(UserError, match=r"no whole checkpoint left, only damaged-step-00000001"):
            load_state(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_read_now_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    before = sorted(tmp_path.rglob("*"))

    def fail(path: Path) -> bytes:
        raise OSError(number, "passing", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(OSError, match="passing"):
            load_state(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert load_state(tmp_path)[1] == {"step": 2}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    before = sorted(tmp_path.rglob("*"))

    def full(number: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for step in (2, 3):  # in place of one, and beside them
        with pytest.raises(OSError, match="No space left on device") as caught:
            save(tmp_path, step)
        assert caught.value.filename == str(tmp_path / f"step-{step:08d}")
        assert sorted(tmp_path.rglob("*")) == before
    assert load_state(tmp_path)[1] == {"step": 2}


def test_a_failed_exchange_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target.name == "step-00000001":
            raise OSError(errno.EIO, "passing")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="passing"):
        save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_state(tmp_path)[1] == {"step": 1}


def test_a_half_written_folder_does_not_count(tmp_path: Path) -> None:
    """What a kill while writing leaves behind; the next checkpoint clears it away."""
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.123").mkdir()
    _, state, refused = load_state(tmp_path)
    assert (state, refused) == ({"step": 1}, [])
    save(tmp_path, 3)
    assert not (tmp_path / ".step-00000002.123").exists()

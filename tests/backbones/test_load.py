from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from preface.backbones import gguf, load
from preface.backbones.load import default_backbone, load_backbone
from preface.backbones.t5 import T5Backbone
from preface.errors import UserError


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("/nowhere/at/all", {}, "neither embedded"),
        ("nano", {"dtype": "float16"}, "overflows"),
        ("nano", {"device": "quantum"}, "not available"),
    ],
)
def test_load_backbone_says_what_would_do(name: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_backbone(name, **options)


def test_other_families_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="a bert model"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    "change", [{"d_model": 8}, {"num_layers": 5}, {"num_layers": "six"}, {"d_kv": None}, {"num_heads": 0}]
)
def test_a_checkpoint_that_does_not_hold_together(
    change: dict[str, Any], checkpoint_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "altered"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match="altered: cannot be loaded") as caught:
        load_backbone(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_is_named_by_its_whole_path(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder a relative name would be somebody's on the hub."""
    monkeypatch.chdir(checkpoint_folder.parent)
    backbone = load_backbone(checkpoint_folder.name, dtype="float32")
    assert backbone.name == str(checkpoint_folder.resolve())
    assert backbone.revision is None


class Hub:
    """A hub that answers, is silent, or is not there."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self) -> Hub:
        return self

    def model_info(self, name: str, timeout: float) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(timeout) if callable(self.answer) else self.answer


def not_found() -> Exception:
    from huggingface_hub.errors import RepositoryNotFoundError

    return RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (not_found, "neither embedded .nano., nor a folder, nor on the Hugging Face hub; did you mean nano"),
        (lambda: ConnectionError("no route"), "the Hugging Face hub is out of reach: no route"),
        (lambda: lambda timeout: time.sleep(2), "the Hugging Face hub is out of reach: no answer within"),
    ],
    ids=["answers", "no network", "silent"],
)
def test_a_mistyped_name_is_said_at_once(answer: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("preface.hub.SECONDS", 0.3)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(answer()))
    began = time.monotonic()
    with pytest.raises(UserError, match=says):
        load_backbone("nanno")
    assert time.monotonic() - began < 2


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bfloat16", "float32"):
        monkeypatch.setenv("PREFACE_DTYPE", name)
        assert load_backbone("nano").dtype == getattr(torch, name)
    monkeypatch.setenv("PREFACE_DTYPE", "float16")
    with pytest.raises(UserError, match="overflows"):
        load_backbone("nano")
    assert load_backbone("nano", dtype="float32").dtype == torch.float32


def test_the_model_type_names_the_family(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(T5Backbone): ...

    monkeypatch.setitem(load.FAMILIES, "t5", Other)
    assert type(load_backbone(checkpoint_folder, dtype="float32", device="cpu")) is Other


@pytest.mark.parametrize(
    ("named", "installed", "expected"),
    [("a/b", True, "a/b"), (None, True, "smollm2"), (None, False, "nano")],
)
def test_the_backbone_where_none_is_named(
    named: str | None, installed: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFACE_BACKBONE")
    if named:
        monkeypatch.setenv("PREFACE_BACKBONE", named)
    monkeypatch.setattr(gguf, "smollm2", lambda: Path("a.gguf") if installed else None)
    assert default_backbone() == expected

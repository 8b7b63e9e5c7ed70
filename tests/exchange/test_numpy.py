"""`.npy` files both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.exchange.exporting import export_prompt
from preface.exchange.importing import import_prompt
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.records.card import load_prompt
from tests.serving.making import put


def test_there_and_back_is_the_same_prompt(backbone: Backbone, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", backbone, PromptTuning(length=5, init="random"))
    path = export_prompt(folder, "numpy")
    assert path == folder / "prompt.npy"
    array = np.load(path)
    assert (array.shape, array.dtype) == ((5, backbone.width), np.float32)
    saved = import_prompt(path, "film", tmp_path / "again", backbone=backbone)
    assert saved.card.method.config == {"length": 5, "imported": str(path)}
    torch.testing.assert_close(saved.prompts.tensors, load_prompt(folder).prompts.tensors, atol=0, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    array=arrays.arrays(
        st.sampled_from(["<f4", "<f8", "<f2", ">f4"]),
        st.tuples(st.integers(1, 6), st.just(24)),
        elements=st.floats(-100, 100, width=16),
    )
)
def test_any_floating_point_numbers_are_taken(
    array: np.ndarray, tiny_float32: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    np.save(folder / "p.npy", array)
    saved = import_prompt(folder / "p.npy", "film", folder / "p", backbone=tiny_float32)
    assert saved.prompts.embeddings is not None
    assert np.array_equal(saved.prompts.embeddings[0].numpy(), array.astype(np.float32))


@pytest.mark.parametrize(
    "method",
    [PrefixTuning(length=2, sites=("input",), init="random"), PromptTuning(length=2, init="random", place="after")],
)
def test_what_an_array_cannot_hold_is_refused(method: Method, causal: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a \.npy file has no place for that; it holds the input embeddings of"):
        export_prompt(put(tmp_path / "p", causal, method), "numpy")


def test_other_files_are_refused(tiny_float32: Backbone, tmp_path: Path) -> None:
    def says(what: str, name: str = "p.npy", **options: object) -> None:
        with pytest.raises(UserError, match=what):
            import_prompt(tmp_path / name, "film", tmp_path / "out", **({"backbone": tiny_float32} | options))
        assert not (tmp_path / "out").exists()

    says("there is nothing")
    (tmp_path / "p.npy").write_bytes(b"no array")
    says("is no .npy file of numbers")
    (tmp_path / "p.bin").write_bytes(b"")
    says("neither a folder that PEFT saved nor", "p.bin")
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object))
    says("is no .npy file of numbers")
    np.save(tmp_path / "p.npy", np.ones((2, 24), dtype=int))
    says("no floating-point numbers")
    np.save(tmp_path / "p.npy", np.full((2, 24), np.nan))
    says("no finite numbers")
    for shape in ((2, 25), (24,), (0, 24)):
        np.save(tmp_path / "p.npy", np.ones(shape))
        says(r"has \[length, 24\]; give the model")
    np.save(tmp_path / "p.npy", np.ones((2, 24)))
    says("does not say which model", backbone=None)
    says("task-number 0: .* has a prompt of one task", task_number=0)


def test_a_prompt_of_the_hub_is_written_elsewhere() -> None:
    with pytest.raises(UserError, match="name a place with --out"):
        export_prompt("hub:somebody/film", "numpy")

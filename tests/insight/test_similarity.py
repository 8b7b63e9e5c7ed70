from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.insight.similarity import heat, rich_table, write_similarity
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.prompts import Prompts
from preface.records.card import save_prompt
from tests.records.making import card_of


def saved(folder: Path, tiny: Backbone, tensors: dict[str, torch.Tensor], method: Method | None = None) -> Path:
    save_prompt(folder, Prompts.one(tensors), card_of(tiny, method or PromptTuning(length=3)))
    return folder


def test_cosines_of_mean_tokens_are_scikit_learns(tiny: Backbone, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tables = [torch.randn(length, tiny.width) for length in (3, 5, 4)]
    folders = [saved(tmp_path / str(i), tiny, {"embeddings": table}) for i, table in enumerate(tables)]
    found = preface.similarity(folders)
    expected = cosine_similarity(np.stack([table.mean(0).numpy() for table in tables]))
    np.testing.assert_allclose(found.cosines, expected, atol=1e-5)
    assert len(set(found.names)) == 3
    assert found.nearest(0) == int(np.argmax(expected[0, 1:])) + 1


def test_keys_and_values_of_all_layers_count(tiny: Backbone, tmp_path: Path) -> None:
    keys, values = torch.randn(3, 3, 2, 5), torch.randn(3, 3, 2, 5)
    prefix = PrefixTuning(length=2, sites=("decoder",))
    one = saved(tmp_path / "one", tiny, {"decoder.keys": keys, "decoder.values": values}, prefix)
    other = saved(tmp_path / "other", tiny, {"decoder.keys": keys, "decoder.values": -values}, prefix)
    k, v = (float(tensor.mean(2).square().sum()) for tensor in (keys, values))
    assert preface.similarity([one, other]).cosines[0][1] == pytest.approx((k - v) / (k + v), abs=1e-5)


def test_a_page_a_picture_and_a_table(tiny: Backbone, tmp_path: Path) -> None:
    folders = [saved(tmp_path / name, tiny, {"embeddings": torch.randn(3, tiny.width)}) for name in ("a", "b")]
    found = preface.similarity(folders)
    for _ in range(2):  # a page takes the place of an earlier one
        write_similarity(found, tmp_path / "page.html")
    assert "Most like" in (tmp_path / "page.html").read_text()
    assert len(heat(found).axes) == 1
    assert rich_table(found).row_count == 2


def test_folders_of_one_name_are_told_apart_by_those_above(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["aa/film/prompt", "bb/film/prompt", "bb/posts/prompts/01", "cc/posts/prompts/01", "cc/other"]
    for place in places:
        saved(tmp_path / place, tiny, {"embeddings": torch.randn(3, tiny.width)})
    monkeypatch.chdir(tmp_path / "aa")
    found = preface.similarity(["film", *(f"../{place}" for place in places[1:])])
    ends = ["aa/film", "bb/film", "bb/posts/prompts/01", "cc/posts/prompts/01", "other"]
    assert found.names == tuple(f"film ({end})" for end in ends)
    assert preface.similarity(["film", "film"]).names == ("film (film)",) * 2  # nothing tells it from itself


def test_what_cannot_be_compared_is_said(tiny: Backbone, tmp_path: Path) -> None:
    one = saved(tmp_path / "one", tiny, {"embeddings": torch.randn(3, tiny.width)})
    with pytest.raises(UserError, match="at least two prompts are compared, and there is 1"):
        preface.similarity([one])
    keys = torch.randn(3, 3, 2, 5)
    other = saved(tmp_path / "other", tiny, {"decoder.keys": keys, "decoder.values": keys})
    with pytest.raises(UserError, match=r"has decoder\.keys, decoder\.values, and .* has embeddings"):
        preface.similarity([one, other])
    card = card_of(tiny, PromptTuning(length=3)).model_copy(update={"fingerprint": "another"})
    save_prompt(tmp_path / "third", Prompts.one({"embeddings": torch.randn(3, tiny.width)}), card)
    with pytest.raises(UserError, match="of another backbone"):
        preface.similarity([one, tmp_path / "third"])

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from preface.backbones.load import EMBEDDED
from preface.errors import UserError
from preface.pretraining.architecture import SHAPES, Architecture, load_architecture


@pytest.mark.parametrize(("name", "millions"), [("1m", 1), ("4m", 4), ("11m", 11.7), ("30m", 30)])
def test_the_shapes_have_about_the_parameters_of_their_names(name: str, millions: float) -> None:
    model = load_architecture(name).build(AutoTokenizer.from_pretrained(EMBEDDED / "nano"))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.12)


def test_every_shape_that_ships_is_tested() -> None:
    assert {path.stem for path in SHAPES.glob("*.yaml")} == {"1m", "4m", "11m", "30m"}


def test_the_largest_embedded_shape_is_that_of_the_embedded_backbone() -> None:
    from transformers import AutoConfig

    nano, ours = AutoConfig.from_pretrained(EMBEDDED / "nano"), load_architecture("11m").config(16384)
    for name in ("d_model", "d_kv", "num_heads", "d_ff", "num_layers", "num_decoder_layers", "feed_forward_proj",
                 "scale_decoder_outputs", "relative_attention_max_distance"):  # fmt: skip
        assert getattr(nano, name) == getattr(ours, name), name


def test_blocks_are_those_of_t5() -> None:
    old, new = Architecture(block="v1.0").config(100), Architecture(block="v1.1").config(100)
    assert (old.dense_act_fn, old.is_gated_act, old.scale_decoder_outputs, old.d_ff) == ("relu", False, True, 1024)
    assert (new.is_gated_act, new.scale_decoder_outputs, new.d_ff) == (True, False, 704)


@pytest.mark.parametrize("block", ["v1.0", "v1.1"])
def test_only_v10_shares_its_embeddings_and_both_come_back_from_disk(block: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Architecture(d_model=16, layers=1, d_kv=8, block=block).build(
        AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    )
    assert (model.shared.weight is model.lm_head.weight) == (block == "v1.0")
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        logits = model(input_ids=ids, labels=ids).logits
        assert torch.equal(logits, again(input_ids=ids, labels=ids).logits)
    assert 0.3 < float(logits.std()) < 3  # of unit size at first


def test_numbers_win_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("d_model: 32\nlayers: 3\n")
    shape = load_architecture(tmp_path / "mine.yaml", layers=2)
    assert (shape.d_model, shape.layers) == (32, 2)


def test_the_weights_follow_from_the_seed() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")

    def weights() -> torch.Tensor:
        torch.manual_seed(3)
        return load_architecture("1m").build(tokenizer).shared.weight

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("12m", {}, "the shapes that ship are 1m, 4m, 11m, 30m"),
        (None, {"d_model": 0}, "d-model"),
        (None, {"depth": 3}, "depth"),
    ],
)
def test_mistakes_are_named(name: str | None, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_architecture(name, **numbers)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"bad\.yaml: is no list of sizes"):
        load_architecture(tmp_path / "bad.yaml")

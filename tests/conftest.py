"""Tiny random backbones of T5's awkward shapes: unequal depths, heads × d_kv ≠ d_model."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("PREFACE_DATA", None)
os.environ["PREFACE_BACKBONE"] = "nano"  # fast, and always there
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: tiny models, a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, LlamaConfig, MT5Config, T5Config

from preface.backbones.base import Backbone
from preface.backbones.load import EMBEDDED, load_backbone
from preface.tuning.recipe import Recipe

SHAPE = {
    "vocab_size": 16384,
    "d_model": 24,
    "d_kv": 5,
    "num_heads": 3,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
}
CONFIGS = {
    "t5-v1.0": T5Config(**SHAPE, feed_forward_proj="relu"),
    "t5-v1.1": T5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": MT5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test, and no program that one starts, writes into the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFACE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def keep_contexts() -> Iterator[None]:
    """What a test says of the kept contexts ends with the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFACE_KEEP_CONTEXTS", "")
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder in the hub's format for each family."""
    folders = {}
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    for name, config in CONFIGS.items():
        torch.manual_seed(7)
        model = AutoModelForSeq2SeqLM.from_config(config)
        if name != "t5-v1.0":  # Transformers ties a fresh model's embeddings whatever the configuration says
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        for parameter in model.parameters():
            # large weights, so that a misplaced key or bias cannot hide in rounding
            torch.nn.init.normal_(parameter, std=0.4)
        folders[name] = tmp_path_factory.mktemp("backbones") / name
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder-only model in the hub's format, with nano's tokenizer."""
    config = LlamaConfig(
        vocab_size=16384, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("causal") / "tiny"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "nano").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def checkpoint_folder(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["t5-v1.1"]


@pytest.fixture(scope="session")
def tiny_float32(checkpoint_folder: Path) -> Backbone:
    return load_backbone(checkpoint_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def tiny_auto(checkpoint_folder: Path) -> Backbone:
    return load_backbone(checkpoint_folder, device="cpu")


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> Backbone:
    """In float32; for tests marked `precision`, in the precision that `auto` is here."""
    marked = request.node.get_closest_marker("precision") is not None
    return request.getfixturevalue("tiny_auto" if marked else "tiny_float32")


def close(backbone: Backbone, actual: Tensor, expected: Tensor, atol: float = 1e-3, rtol: float = 1e-4) -> None:
    """Fail unless logits, log-probabilities or losses of a tiny backbone are equal up to rounding.

    In bfloat16 a number has eight bits, and what stands beside a row decides which way the last of them is rounded.
    `atol` and `rtol` are for float32; the others were found by rounding a tenth of all products the other way.
    """
    if backbone.dtype == torch.bfloat16:
        atol, rtol = 0.2, 0.01
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


@pytest.fixture(scope="session")
def nano() -> Backbone:
    return load_backbone(dtype="float32", device="cpu")


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training is cut to two steps."""
    resolve = Recipe.resolve
    monkeypatch.setattr(Recipe, "resolve", lambda self, rows: resolve(self.model_copy(update={"steps": 2}), rows))
    monkeypatch.setenv("PREFACE_DTYPE", "float32")  # bfloat16 is slow where it is emulated


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Rows that a tiny backbone can learn: the label is a word of the text."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "text": f"the {('good', 'bad')[i % 2]} thing number {i} {'and more ' * (i % 5)}",
            "label": ("yes", "no")[i % 2],
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

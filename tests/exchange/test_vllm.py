"""Requests for vLLM: their embeddings are all that the model reads, held against the plain model."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.exchange.exporting import export_prompt
from preface.labelling.label_words import LabelWords
from preface.methods import Method, PrefixTuning, PromptTuning
from tests.exchange.conftest import plain_of
from tests.serving.making import put, put_multi_label

TEXTS = ["a lovely film", "dull, and far too long " * 5]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_plain_model_says_of_a_request_what_the_prompt_says(
    place: Any, causal: Backbone, texts: Path, tmp_path: Path
) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=3, init="random", place=place))
    path = export_prompt(folder, "vllm", texts=texts, backbone=causal)
    bodies = [json.loads(line) for line in path.read_text().splitlines()]
    words = LabelWords.of(causal, ("negative", "positive"), "Sentiment:")
    for body, line in zip(bodies, preface.predict(folder, TEXTS, backbone=causal), strict=True):
        assert (body["model"], body["temperature"]) == (causal.name, 0)
        assert body["max_tokens"] == max(map(len, words.pieces))
        blob = base64.b64decode(body["prompt_embeds"], validate=True)
        read = torch.load(io.BytesIO(blob), weights_only=True)  # as vLLM does
        assert (read.dtype, read.shape[1]) == (torch.float32, causal.width)
        totals = torch.stack([answer_score(causal, read, pieces) for pieces in words.pieces])
        said = [line["probabilities"][word] for word in words.words]
        torch.testing.assert_close(totals.softmax(0), torch.tensor(said), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def answer_score(backbone: Backbone, read: torch.Tensor, pieces: tuple[int, ...]) -> torch.Tensor:
    """The plain model's log-probability of an answer after what it has read."""
    whole = torch.cat([read, backbone.embed(torch.tensor(pieces))])[None]
    scores = plain_of(backbone)(inputs_embeds=whole).logits[0].log_softmax(-1)
    return sum((scores[len(read) - 1 + place, piece] for place, piece in enumerate(pieces)), torch.tensor(0.0))


@pytest.mark.parametrize("method", [PrefixTuning(length=2, sites=("answer",), init="random")])
def test_keys_and_values_are_refused(method: Method, causal: Backbone, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vLLM has no place for that; it holds .* before the text or after it"):
        export_prompt(put(tmp_path / "p", causal, method), "vllm", texts=texts, backbone=causal)


def test_what_vllm_cannot_ask_is_refused(causal: Backbone, tiny_float32: Backbone, texts: Path, tmp_path: Path) -> None:
    prompt = PromptTuning(length=2, init="random")
    with pytest.raises(UserError, match="has an encoder, and vLLM takes decoder-only models"):
        export_prompt(put(tmp_path / "t5", tiny_float32, prompt), "vllm", texts=texts, backbone=tiny_float32)
    folder = put_multi_label(tmp_path / "moods", causal, prompt, 1, 3)
    with pytest.raises(UserError, match="asks a question for each label of moods"):
        export_prompt(folder, "vllm", texts=texts, backbone=causal)
    folder = put(tmp_path / "p", causal, prompt)
    with pytest.raises(UserError, match="--format vllm makes requests about texts"):
        export_prompt(folder, "vllm", backbone=causal)
    with pytest.raises(UserError, match="no other format does"):
        export_prompt(folder, "numpy", texts=texts)
    with pytest.raises(UserError, match="format onnx: one of peft, numpy, vllm"):
        export_prompt(folder, "onnx")  # type: ignore[arg-type]


def test_a_bad_row_leaves_no_half_file(causal: Backbone, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=2, init="random"))
    (tmp_path / "bad.csv").write_text("text,label\na film,1\n,2\n")
    with pytest.raises(UserError, match="line 3"):
        export_prompt(folder, "vllm", texts=tmp_path / "bad.csv", backbone=causal)
    assert {file.name for file in folder.iterdir()} == {"prompt.json", "prompt.safetensors"}
    path = export_prompt(folder, "vllm", texts=tmp_path / "bad.csv", skip_bad_rows=True, backbone=causal)
    assert len(path.read_text().splitlines()) == 1

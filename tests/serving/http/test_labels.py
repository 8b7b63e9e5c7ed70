from __future__ import annotations

import math
from pathlib import Path
from threading import current_thread
from typing import Any

import httpx
import pytest

import preface
from preface.backbones.base import Backbone
from preface.serving.engine import Engine
from preface.serving.store import Store

TEXTS = ["a fine warm film", "dull, cold and long"]


def probabilities(folder: Path, backbone: Backbone, text: str) -> dict[str, float]:
    (line,) = preface.predict(folder, [text], backbone=backbone)
    found: dict[str, float] = line["probabilities"]
    return found


def test_classify_one_prompt(client: httpx.Client, served_folder: Path, served_backbone: Backbone) -> None:
    said = client.post("/classify", json={"model": "answer-a", "input": TEXTS}).json()
    assert said["object"] == "list"
    assert said["model"] == "answer-a"
    for number, (row, text) in enumerate(zip(said["data"], TEXTS, strict=True)):
        expected = probabilities(served_folder / "answer-a", served_backbone, text)
        assert row["index"] == number
        assert row["num_classes"] == 2
        assert row["probs"] == pytest.approx(list(expected.values()), abs=2e-4)
        assert row["probabilities"] == pytest.approx(expected, abs=2e-4)
        assert row["label"] == max(expected, key=lambda word: expected[word])
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] > 4


def test_classify_many_prompts_on_one_text(
    client: httpx.Client, served_folder: Path, served_backbone: Backbone
) -> None:
    models = ["before", "answer-b", "several", "vectors", "answer-trec"]
    said = client.post("/classify", json={"models": models, "input": TEXTS[0]}).json()
    assert [row["model"] for row in said["data"]] == models
    for row in said["data"]:
        expected = probabilities(served_folder / row["model"], served_backbone, TEXTS[0])
        assert row["probabilities"] == pytest.approx(expected, abs=2e-4)


def test_predict(client: httpx.Client, served_folder: Path, served_backbone: Backbone) -> None:
    expected = [probabilities(served_folder / "answer-a", served_backbone, text) for text in TEXTS]
    one = client.post("/predict", json={"model": "answer-a", "inputs": TEXTS[0]}).json()
    assert {row["label"]: row["score"] for row in one} == pytest.approx(expected[0], abs=2e-4)
    assert one == sorted(one, key=lambda row: -row["score"])
    both = client.post(
        "/predict", json={"model": "answer-a", "inputs": [[text] for text in TEXTS], "raw_scores": True}
    ).json()
    for rows, probability in zip(both, expected, strict=True):
        logs = {word: math.log(value) for word, value in probability.items()}
        assert {row["label"]: row["score"] for row in rows} == pytest.approx(logs, abs=1e-2)


def test_prompts_that_are_not_loaded_are_read_beside_the_server_s_own_work(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    plain = Engine.ask

    def ask(self: Engine, *given: Any, **named: Any) -> Any:
        threads.append(current_thread().name)
        return plain(self, *given, **named)

    monkeypatch.setattr(Engine, "ask", ask)
    name = client.get("/v1/prompts").json()["data"][0]
    for _ in range(2):
        client.post("/classify", json={"model": name, "input": "a"}).raise_for_status()
    monkeypatch.setattr(Store, "is_loaded", lambda self, name: False)
    client.post("/classify", json={"model": name, "input": "a"}).raise_for_status()
    assert threads[1] != threads[2]


def test_predict_refuses_what_it_would_cut(client: httpx.Client) -> None:
    long = "word " * 60
    said = client.post("/predict", json={"model": "answer-a", "inputs": long})
    assert said.status_code == 413
    assert "truncate" in said.json()["error"]["message"]
    assert client.post("/predict", json={"model": "answer-a", "inputs": long, "truncate": True}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/classify", {"model": "none-such", "input": "x"}, 404, "none of that name"),
        ("/classify", {"model": "../before", "input": "x"}, 404, "none of that name"),
        ("/classify", {"model": "\ud800", "input": "x"}, 404, "none of that name"),
        ("/classify", {"input": "x"}, 422, "give model"),
        ("/classify", {"model": "before", "models": ["before"], "input": "x"}, 422, "give model"),
        ("/classify", {"models": [], "input": "x"}, 400, "at least one"),
        ("/classify", {"model": "before", "input": []}, 400, "at least one"),
        ("/classify", {"model": "before", "input": ["x", " "]}, 400, "text 2: the field 'text' is empty"),
        ("/classify", {"model": "before", "input": [{"txt": "x"}]}, 400, "field"),
        ("/classify", {"model": "before", "input": "half a \ud800 character"}, 400, "character"),
        ("/classify", {"model": "before", "input": 3}, 422, "input"),
        ("/classify", {"model": "before", "input": "x", "tempurature": 1}, 422, "tempurature"),
        ("/classify", {"model": "before", "input": "x" * 100_001}, 413, "100,000"),
        ("/classify", {"model": "before", "input": ["x"] * 257}, 413, "256"),
        ("/classify", {"models": ["before"] * 1001, "input": "x"}, 413, "1,000"),
        ("/predict", {"inputs": "x"}, 422, "name one"),
        ("/predict", {"model": "before", "inputs": ["x", "y"]}, 422, "reads text"),
        ("/predict", {"model": "before", "inputs": []}, 422, "0 texts, and the prompt before reads text"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_mistakes(client: httpx.Client, path: str, body: dict[str, object], status: int, says: str) -> None:
    import json

    said = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert said.status_code == status, said.text
    error = said.json()["error"]
    assert says in error["message"]
    assert error["code"] == status


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b'{"model": "before", "input": "\xff"}', b"[" * 100_000, b'{"a":' * 50_000, b"null"],
)
def test_what_is_no_json(client: httpx.Client, content: bytes) -> None:
    said = client.post("/classify", content=content, headers={"content-type": "application/json"})
    assert said.status_code in (400, 422)
    assert said.json()["error"]["message"]


def test_too_large_a_body(client: httpx.Client) -> None:
    whole = client.post("/classify", content=b" " * (4 * 2**20 + 1))
    assert whole.status_code == 413
    assert "4,194,304 bytes" in whole.json()["error"]["message"]

    def parts() -> object:
        for _ in range(80):
            yield b" " * 2**16

    told_nothing = client.post("/classify", content=parts())  # type: ignore[arg-type]
    assert told_nothing.status_code == 413

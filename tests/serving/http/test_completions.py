from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from preface.backbones.base import Backbone
from preface.methods import PrefixTuning
from preface.serving.asked import Style
from preface.serving.engine import Engine
from preface.serving.store import Store
from tests.serving.http.conftest import client_of
from tests.serving.making import put, put_ensemble

TEXT = "a fine warm film"
CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def folder(served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    method = PrefixTuning(length=3, sites=(served_backbone.answer_site,))
    put(folder / "labels", served_backbone, method, 3)
    put_ensemble(folder / "several", served_backbone, [method, method])
    return folder


@pytest.fixture(scope="module")
def client(folder: Path, served_backbone: Backbone) -> Iterator[httpx.Client]:
    with client_of(folder, served_backbone) as client:
        yield client


@pytest.fixture(scope="module")
def official(client: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def engine(folder: Path, served_backbone: Backbone) -> Iterator[Engine]:
    with Engine(Store(folder, served_backbone)) as engine:
        yield engine


def bare(backbone: Backbone) -> str:
    return Path(backbone.name).name


def test_models(official: openai.OpenAI, served_backbone: Backbone) -> None:
    assert [model.id for model in official.models.list()] == [bare(served_backbone), "labels", "several"]
    assert official.models.retrieve("labels").id == "labels"
    with pytest.raises(openai.NotFoundError, match="none of that name"):
        official.models.retrieve("other")


@pytest.mark.parametrize("under_a_prompt", [True, False])
def test_completions(official: openai.OpenAI, engine: Engine, served_backbone: Backbone, under_a_prompt: bool) -> None:
    model = "labels" if under_a_prompt else bare(served_backbone)
    said = official.completions.create(model=model, prompt=[TEXT, "x y"], max_tokens=7, temperature=0, logprobs=2)
    for choice, text in zip(said.choices, [TEXT, "x y"], strict=True):
        expected = engine.write(model, text, Style(7, likeliest=2)).result(60)
        assert choice.text == expected.text
        assert choice.finish_reason == expected.finish
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(
            [piece.log_probability for piece in expected.pieces], abs=1e-3
        )
    assert said.usage is not None
    assert said.usage.completion_tokens == sum(len(choice.logprobs.tokens or []) for choice in said.choices)  # type: ignore[union-attr]


def test_completions_as_a_stream(official: openai.OpenAI, engine: Engine) -> None:
    stream = official.completions.create(
        model="labels", prompt=[TEXT, "x y"], max_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    texts, ends, usage = ["", ""], ["", ""], None
    for event in stream:
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    expected = [engine.write("labels", text, Style(9)).result(60) for text in (TEXT, "x y")]
    assert texts == [each.text for each in expected]
    assert ends == [each.finish for each in expected]
    assert usage is not None
    assert usage.completion_tokens == sum(len(each.pieces) for each in expected)


def test_chat_under_a_prompt_reads_the_user_s_last_message(official: openai.OpenAI, engine: Engine) -> None:
    messages: Any = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": TEXT}]},
    ]
    expected = engine.write("labels", TEXT, Style(6, likeliest=1)).result(60)
    said = official.chat.completions.create(
        model="labels", messages=messages, max_tokens=6, logprobs=True, top_logprobs=1
    )
    assert said.choices[0].message.content == expected.text
    content = said.choices[0].logprobs.content  # type: ignore[union-attr]
    assert [each.token for each in content or []] == [piece.text for piece in expected.pieces]
    stream = official.chat.completions.create(model="labels", messages=messages, max_tokens=6, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in stream) == expected.text


def test_chat_of_the_bare_model_reads_all_by_its_template(
    official: openai.OpenAI, engine: Engine, served_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bare(served_backbone)
    messages: Any = [{"role": "system", "content": "short"}, {"role": "user", "content": TEXT}]
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        official.chat.completions.create(model=model, messages=messages)
    monkeypatch.setattr(served_backbone.tokenizer, "chat_template", CHAT)
    said = official.chat.completions.create(model=model, messages=messages, max_completion_tokens=5, temperature=0)
    expected = engine.write(model, f"<system> short\n<user> {TEXT}\n<assistant>", Style(5)).result(60)
    assert said.choices[0].message.content == expected.text
    monkeypatch.setattr(served_backbone.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(openai.BadRequestError, match="roles must alternate"):
        official.chat.completions.create(model=model, messages=messages)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "several", "prompt": TEXT}, 400, "an ensemble writes no text"),
        ({"model": "other", "prompt": TEXT}, 404, "none of that name"),
        ({"model": "labels", "prompt": ""}, 400, "the field 'text' is empty"),
        ({"model": "labels", "prompt": TEXT, "max_tokens": 10**9}, 422, "at most 1,024"),
        ({"model": "labels", "prompt": TEXT, "n": 2}, 422, "n:"),
        ({"model": "labels", "prompt": TEXT, "temperature": -1}, 422, "temperature"),
        ({"model": "labels", "prompt": TEXT, "stop": ["a"] * 5}, 422, "at most four"),
        ({"model": "labels", "prompt": [1, 2, 3]}, 422, "prompt"),
        ({"model": "labels", "prompt": TEXT, "seed": 2**70}, 422, "seed"),
    ],
)
def test_mistakes(client: httpx.Client, body: dict[str, Any], status: int, says: str) -> None:
    for stream in (False, True):
        said = client.post("/v1/completions", json=body | {"stream": stream})
        assert said.status_code == status, said.text
        assert says in said.json()["error"]["message"]


def test_a_bare_model_s_mistakes(client: httpx.Client, served_backbone: Backbone) -> None:
    model = bare(served_backbone)
    for prompt in ("", "half a \ud800 character", "word " * 3_000):
        body = json.dumps({"model": model, "prompt": prompt})
        said = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert said.status_code == 400, said.text
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    for message, says in (
        ({"role": "system", "content": ""}, "none is the user's"),
        ({"role": "user", "content": image}, "type text"),
    ):
        said = client.post("/v1/chat/completions", json={"model": "labels", "messages": [message]})
        assert said.status_code == 422
        assert says in said.json()["error"]["message"]


def test_what_goes_wrong_while_a_text_is_sent_is_in_the_log(
    folder: Path, served_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        future: Future[Any] = Future()
        future.set_exception(RuntimeError("a part of it broke"))
        return future

    with client_of(folder, served_backbone) as client:
        monkeypatch.setattr(Engine, "write", fail)
        body = {"model": bare(served_backbone), "prompt": TEXT, "stream": True}
        assert "the server's log says what" in client.post("/v1/completions", json=body).text
    assert "a part of it broke" in capfd.readouterr().err


def test_a_caller_that_goes_frees_its_place(folder: Path, served_backbone: Backbone) -> None:
    body = {"model": bare(served_backbone), "prompt": TEXT, "max_tokens": 1_000, "temperature": 5, "stream": True}
    with client_of(folder, served_backbone) as client:
        with client.stream("POST", "/v1/completions", json=body) as said:
            next(said.iter_lines())
        for _ in range(500):
            metrics = client.get("/metrics").text
            if "preface_writing 0.0" in metrics:
                break
        assert "preface_writing 0.0" in metrics

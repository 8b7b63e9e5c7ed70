"""Over a cluster the routes answer as on one machine, a text stays where it was read, and no worker is missed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("ray.serve", exc_type=ImportError)

from ray.exceptions import RayActorError

from preface.backbones.base import Backbone
from preface.cluster.serve import Front, asked_about, on_cluster
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.serving.http.access import Key
from preface.serving.http.limits import Limits
from preface.serving.http.setup import Setup
from tests.cluster.conftest import at_worker
from tests.serving.http.conftest import client_of, running
from tests.serving.making import put

KEY, WRITER = "a-key-of-some-length", "another-key-of-some-length"
KEYS = (Key(name="reader", key=KEY, requests_per_minute=100_000), Key(name="writer", key=WRITER, write=True))


@pytest.fixture(scope="module")
def folder(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    put(folder / "after-reading", nano, PrefixTuning(length=3, sites=("decoder",)), 1)
    put(folder / "other", nano, PrefixTuning(length=5, sites=("decoder",)), 2)
    put(folder / "before", nano, PromptTuning(length=4, init="random"), 3)
    return folder


# the first, while both nodes are free
def test_likely_mistakes(cluster: str, folder: Path, tmp_path: Path) -> None:
    for setup, replicas, says in (
        (Setup(folder, "nano"), (3, 3), "replicas 3: the cluster has room for 2"),
        (Setup(tmp_path / "none", "nano"), (1, 1), "none; call this in a folder that all machines share"),
        (Setup(folder, str(tmp_path)), (1, 1), "backbone"),
    ):
        with pytest.raises(UserError, match=says), on_cluster(setup, "mistakes", address=cluster, replicas=replicas):
            pass


@pytest.fixture(scope="module")
def served(cluster: str, folder: Path) -> Iterator[httpx.Client]:
    """Two replicas, on two nodes."""
    setup = Setup(folder, "nano", "float32", "cpu", keys=KEYS)
    with (
        on_cluster(setup, "tests", address=cluster, replicas=(2, 2)) as app,
        running(app) as address,  # type: ignore[arg-type]
        httpx.Client(base_url=address, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def plain(folder: Path, nano: Backbone) -> Iterator[httpx.Client]:
    with client_of(folder, nano) as client:
        yield client


def kept(client: httpx.Client, name: str = "preface_kept_texts") -> dict[str, float]:
    """A number of each replica, by its name."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {each.labels["replica"]: each.value for family in families for each in family.samples if each.name == name}


def lasting(answer: httpx.Response) -> Any:
    """What does not differ from call to call; probabilities to four digits."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            passing = ("id", "created", "seconds", "read_before")
            return {name: without(item) for name, item in value.items() if name not in passing}
        if isinstance(value, list):
            return [without(item) for item in value]
        return round(value, 4) if isinstance(value, float) else value

    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        return [line if line == "[DONE]" else without(json.loads(line)) for line in lines]
    return answer.status_code, without(answer.json())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"models": ["after-reading", "before"], "input": "a warm, funny film", "zero_shot": True}),
        ("/classify", {"model": "other", "input": [f"film {number}" for number in range(20)]}),
        ("/predict", {"model": "before", "inputs": "a film"}),
        ("/v1/completions", {"model": "other", "prompt": "a dull film", "max_tokens": 4, "logprobs": 2}),
        ("/v1/completions", {"model": "nano", "prompt": "a film", "max_tokens": 6, "temperature": 0, "stream": True}),
        ("/v1/chat/completions", {"model": "other", "messages": [{"role": "user", "content": "a film"}]}),
        ("/classify", {"model": "none", "input": "a film"}),
        ("/classify", {"model": "other", "input": ""}),
        ("/classify", {"model": "other"}),
        ("/classify", "no object"),
    ],
)
def test_answers_are_those_of_one_machine(served: httpx.Client, plain: httpx.Client, path: str, body: Any) -> None:
    assert lasting(served.post(path, json=body)) == lasting(plain.post(path, json=body))


def test_a_text_is_read_by_one_replica_alone(served: httpx.Client) -> None:
    """However it is asked about; many texts are spread."""
    before = kept(served)
    assert len(before) == 2
    text = "a text that nobody has asked about"
    for _ in range(3):
        for model in ("after-reading", "other"):
            served.post("/classify", json={"model": model, "input": text}).raise_for_status()
            served.post("/classify", json={"model": model, "input": [{"text": text}]}).raise_for_status()
            served.post("/predict", json={"model": model, "inputs": text}).raise_for_status()
            served.post("/v1/completions", json={"model": model, "prompt": text}).raise_for_status()
    after = kept(served)
    assert sorted(after[name] - before[name] for name in before) == [0, 1]
    for number in range(40):
        served.post("/classify", json={"model": "other", "input": f"text {number}"}).raise_for_status()
    grown = [kept(served)[name] - after[name] for name in after]
    assert sum(grown) == 40
    assert min(grown) > 4


def test_what_is_written_is_known_to_all(served: httpx.Client, folder: Path) -> None:
    files = {"card": (folder / "other" / "prompt.json").read_bytes()}
    files["tensors"] = (folder / "other" / "prompt.safetensors").read_bytes()
    assert served.post("/v1/prompts", data={"name": "new"}, files=files).status_code == 403
    writer = {"authorization": f"Bearer {WRITER}"}
    assert served.post("/v1/prompts", data={"name": "new"}, files=files, headers=writer).status_code == 201
    for number in range(8):
        served.post("/classify", json={"model": "new", "input": f"text {number}"}).raise_for_status()
    assert served.delete("/v1/prompts/new", headers=writer).status_code == 204
    assert {served.get("/v1/prompts/new").status_code for _ in range(8)} == {404}


def test_pages_and_keys(served: httpx.Client) -> None:
    for path in ("/", "/docs", "/page.js", "/health", "/ready", "/openapi.json"):
        assert served.get(path, headers={"authorization": ""}).status_code == 200, path
    assert served.get("/v1/models", headers={"authorization": ""}).status_code == 401
    large = served.post("/classify", content=b"x" * (4 * 2**20 + 1))
    assert large.status_code == 413


def test_a_caller_that_goes_frees_its_place(served: httpx.Client) -> None:
    long = {"model": "nano", "prompt": ["a film"] * 250, "max_tokens": 1000, "temperature": 1.5}
    with pytest.raises(httpx.ReadTimeout):
        served.post("/v1/completions", json=long, timeout=1)
    until = time.monotonic() + 10  # it would take half a minute
    while (busy := sum(kept(served, "preface_writing").values())) and time.monotonic() < until:
        time.sleep(0.05)
    assert not busy


def test_a_lost_replica_costs_no_answer(served: httpx.Client, plain: httpx.Client) -> None:
    """Killed while many ask; another takes its place."""
    bodies = [{"model": "other", "input": f"film {number} " * (1 + number % 9)} for number in range(240)]
    expected = [lasting(plain.post("/classify", json=body)) for body in bodies]
    names = set(kept(served))
    lost: list[int] = []
    asked: list[int] = []

    def kill(process: psutil.Process) -> None:
        process.kill()
        lost.append(process.pid)

    def ask(number: int) -> Any:
        asked.append(number)
        return lasting(served.post("/classify", json=bodies[number]))

    thread = at_worker("ServeReplica:tests", lambda: len(asked) > 30, kill)
    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(ask, range(len(bodies))))
    thread.join()
    assert lost
    assert found == expected
    until = time.monotonic() + 120
    while len(set(kept(served)) - names) < 1 and time.monotonic() < until:
        time.sleep(0.5)
    assert len(set(kept(served)) - names) == 1


# the front alone


class Handle:
    """Of replicas that are lost so often, before they answer or in the middle of it; each answer takes a while."""

    def __init__(self, losses: int, in_the_middle: bool = False, seconds: float = 0.0) -> None:
        self.losses, self.in_the_middle, self.seconds = losses, in_the_middle, seconds
        self.asked = self.cancelled = 0

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, *_: Any) -> Handle:
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    async def __aiter__(self) -> AsyncIterator[list[dict[str, Any]]]:
        self.asked += 1
        lost = self.asked <= self.losses
        await asyncio.sleep(self.seconds)
        if not lost or self.in_the_middle:
            yield [{"type": "http.response.start", "status": 200, "headers": []}]
            yield [{"type": "http.response.body", "body": b"data: 1\n\n", "more_body": lost}]
        if lost:
            raise RayActorError


def through(handle: Any, limits: Limits | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Front(handle, limits or Limits()))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/classify", json={"model": "film", "input": "a film"})

    return asyncio.run(ask())


def test_another_replica_is_asked_unless_an_answer_has_begun() -> None:
    handle = Handle(losses=3)
    assert through(handle).text == "data: 1\n\n"
    assert handle.asked == 4
    refused = through(Handle(losses=4))
    assert refused.status_code == 503
    assert "was lost" in refused.json()["error"]["message"]
    handle = Handle(losses=1, in_the_middle=True)
    answer = through(handle).text
    assert answer.startswith("data: 1\n\n")
    assert "was lost" in answer
    assert handle.asked == 1


def test_a_request_that_no_replica_takes_ends_in_time() -> None:
    handle = Handle(losses=0, seconds=3600)
    refused = through(handle, Limits(timeout=0.05))
    assert refused.status_code == 503
    assert "no replica answered within 0.05 seconds" in refused.json()["error"]["message"]
    assert handle.cancelled == 1


def test_the_same_text_has_the_same_key_in_all_routes() -> None:
    def key(path: str, **body: Any) -> str:
        return asked_about({"path": path, "method": "POST"}, json.dumps(body).encode())

    text = "½ a film"
    keys = {
        key("/classify", model="a", input=text),
        key("/classify", models=["b"], input=[text]),
        key("/classify", model="a", input=[{"review": text}]),
        key("/predict", inputs=[[text]]),
        key("/v1/completions", prompt=text, stream=True),
        key("/v1/chat/completions", messages=[{"role": "system", "content": "x"}, {"role": "user", "content": text}]),
    }
    assert len(keys) == 1
    assert key("/classify", input="another") not in keys
    assert key("/classify", input=[text, text]) not in keys
    assert key("/classify", model="a") == ""
    for nothing in (b"", b"\xff", b"[" * 100_000, b"3", b'["input"]'):
        assert asked_about({"path": "/classify", "method": "POST"}, nothing) == ""
    writes = {
        asked_about({"path": f"/v1/prompts{of}", "method": how}, b"") for of, how in (("", "POST"), ("/a", "DELETE"))
    }
    assert len(writes) == 1
    assert "" not in writes

from __future__ import annotations

import errno
import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.serving.engine import Engine
from preface.serving.http.access import Access
from preface.serving.http.app import create_app
from preface.serving.http.limits import Limits
from preface.serving.store import Store
from tests.serving.http.conftest import client_of, running
from tests.serving.making import held_up, put

WRITER, READER, SLOW = "writer-writer-writer", "reader-reader-reader", "slow-slow-slow-slow"
KEYS = f"""
keys:
- {{name: writer, key: {WRITER}, write: true}}
- {{name: reader, sha256: {hashlib.sha256(READER.encode()).hexdigest()}, prompts: ["film-*"]}}
- {{name: slow, key: {SLOW}, requests_per_minute: 3}}
"""


@pytest.fixture(scope="module")
def folder(served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    method = PrefixTuning(length=3, sites=(served_backbone.answer_site,))
    put(folder / "film-a", served_backbone, method, 1)
    put(folder / "other", served_backbone, method, 2)
    return folder


@pytest.fixture(scope="module")
def sent(served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = PrefixTuning(length=2, sites=(served_backbone.answer_site,))
    return put(tmp_path_factory.mktemp("sent") / "new", served_backbone, method, 9)


@pytest.fixture(scope="module")
def client(folder: Path, served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(KEYS)
    with client_of(folder, served_backbone, Access.read(keys)) as client:
        yield client


def by(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def files(folder: Path) -> dict[str, bytes]:
    return {"card": (folder / "prompt.json").read_bytes(), "tensors": (folder / "prompt.safetensors").read_bytes()}


def label(client: httpx.Client, model: str, key: str = WRITER) -> httpx.Response:
    return client.post("/classify", json={"model": model, "input": "a fine film"}, headers=by(key))


def test_a_key_is_needed(client: httpx.Client) -> None:
    for headers in ({}, by("wrong-wrong-wrong-wrong"), {"Authorization": READER}, {"Authorization": "Bearer"}):
        said = client.post("/classify", json={"model": "film-a", "input": "x"}, headers=headers)
        assert said.status_code == 401
        assert "key" in said.json()["error"]["message"]
        assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_a_key_may_use_its_prompts_alone(client: httpx.Client) -> None:
    assert label(client, "film-a", READER).status_code == 200
    assert label(client, "other", READER).status_code == 403
    many = {"models": ["film-a", "other"], "input": "x"}
    assert client.post("/classify", json=many, headers=by(READER)).status_code == 403
    assert client.post("/predict", json={"model": "other", "inputs": "x"}, headers=by(READER)).status_code == 403
    assert client.get("/v1/prompts/other", headers=by(READER)).status_code == 403
    assert client.get("/v1/prompts", headers=by(READER)).json()["data"] == ["film-a"]
    assert [each["id"] for each in client.get("/v1/models", headers=by(READER)).json()["data"]] == ["film-a"]
    completion = {"model": "other", "prompt": "x"}
    assert client.post("/v1/completions", json=completion, headers=by(READER)).status_code == 403


def test_prompts_are_added_replaced_and_removed(
    client: httpx.Client, sent: Path, folder: Path, served_backbone: Backbone
) -> None:
    assert label(client, "new").status_code == 404
    added = client.post("/v1/prompts", data={"name": "new"}, files=files(sent), headers=by(WRITER))
    assert added.status_code == 201, added.text
    assert added.json()["task"] == "film"
    assert added.json()["read_once"] is True
    first = label(client, "new").json()["data"][0]["probabilities"]
    client.post("/v1/prompts", data={"name": "new"}, files=files(folder / "other"), headers=by(WRITER))
    second = label(client, "new").json()["data"][0]["probabilities"]
    assert second == pytest.approx(label(client, "other").json()["data"][0]["probabilities"], abs=1e-4)
    assert second != pytest.approx(first, abs=1e-4)
    assert client.delete("/v1/prompts/new", headers=by(WRITER)).status_code == 204
    assert label(client, "new").status_code == 404
    assert client.delete("/v1/prompts/new", headers=by(WRITER)).status_code == 404
    assert sorted(path.name for path in folder.iterdir()) == ["film-a", "other"]


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "x" * 129, "a\x00b", "..", "%2e%2e"])
def test_names_lead_nowhere_else(client: httpx.Client, sent: Path, folder: Path, name: str) -> None:
    said = client.post("/v1/prompts", data={"name": name}, files=files(sent), headers=by(WRITER))
    assert said.status_code in (400, 422), said.text
    assert sorted(path.name for path in folder.iterdir()) == ["film-a", "other"]
    assert sorted(path.name for path in folder.parent.iterdir() if path.name == "out") == []


def test_what_is_damaged_or_of_another_backbone_changes_nothing(
    client: httpx.Client, sent: Path, folder: Path, nano: Backbone, tmp_path: Path
) -> None:
    before = label(client, "film-a").json()["data"][0]["probabilities"]
    whole, foreign = files(sent), put(tmp_path / "foreign", nano, PrefixTuning(length=2, sites=("decoder",)), 9)
    for bad in (
        whole | {"tensors": whole["tensors"][:-1]},
        whole | {"tensors": b"\x80\x04pickled"},
        whole | {"card": b"{}"},
        whole | {"card": b"[" * 10_000},
        files(foreign),
    ):
        said = client.post("/v1/prompts", data={"name": "film-a"}, files=bad, headers=by(WRITER))
        assert said.status_code == 400, said.text
        assert str(folder) not in said.json()["error"]["message"]
    assert label(client, "film-a").json()["data"][0]["probabilities"] == pytest.approx(before, abs=1e-4)
    assert client.post("/v1/prompts", data={"name": "film-a"}, headers=by(WRITER)).status_code == 422


def test_a_full_disk_is_said(client: httpx.Client, folder: Path, sent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = label(client, "film-a").json()["data"][0]["probabilities"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        said = client.post("/v1/prompts", data={"name": "film-a"}, files=files(sent), headers=by(WRITER))
    assert said.status_code == 503
    message = said.json()["error"]["message"]
    assert "No space left" in message
    assert str(folder) not in message
    assert label(client, "film-a").json()["data"][0]["probabilities"] == pytest.approx(before, abs=1e-4)


def test_a_key_without_write_changes_nothing(client: httpx.Client, sent: Path) -> None:
    said = client.post("/v1/prompts", data={"name": "film-b"}, files=files(sent), headers=by(READER))
    assert said.status_code == 403
    assert client.delete("/v1/prompts/film-a", headers=by(READER)).status_code == 403
    assert label(client, "film-a").status_code == 200


def test_what_tells_of_all_prompts_is_for_keys_of_all(client: httpx.Client) -> None:
    for path in ("/metrics", "/v1/runs", "/v1/runs/x", "/v1/runs/x/page/y.html"):
        assert client.get(path, headers=by(READER)).status_code == 403, path
    assert client.get("/metrics", headers=by(WRITER)).status_code == 200


def test_pages_of_other_sites_may_not_ask_where_no_key_is_needed(folder: Path, served_backbone: Backbone) -> None:
    app = create_app(Engine(Store(folder, served_backbone)), local=True)
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        asked = {"model": "other", "input": "a"}
        own, other = {"Origin": address}, {"Origin": "https://example.org"}
        rebound = {"Host": "example.org:80", "Origin": "http://example.org:80"}
        assert client.post("/classify", json=asked, headers=own).status_code == 200
        assert client.post("/classify", json=asked, headers=other).status_code == 403
        assert client.delete("/v1/prompts/other", headers=other).status_code == 403
        assert client.delete("/v1/prompts/other", headers=rebound).status_code == 403
        assert client.post("/classify", json=asked).status_code == 200


def test_a_key_has_its_rate(client: httpx.Client) -> None:
    said = [label(client, "film-a", SLOW) for _ in range(4)]
    assert [each.status_code for each in said] == [200, 200, 200, 429]
    assert 1 <= int(said[-1].headers["Retry-After"]) <= 20
    assert label(client, "film-a", READER).status_code == 200


def test_a_damaged_prompt_is_refused_and_the_others_go_on(client: httpx.Client, folder: Path, sent: Path) -> None:
    bad = folder / "film-bad"
    bad.mkdir()
    (bad / "prompt.json").write_bytes(files(sent)["card"])
    (bad / "prompt.safetensors").write_bytes(b"cut off")
    try:
        said = label(client, "film-bad")
        assert said.status_code == 400
        assert "cut off or altered" in said.json()["error"]["message"]
        assert label(client, "film-a").status_code == 200
    finally:
        for file in bad.iterdir():
            file.unlink()
        bad.rmdir()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: []", "keys: Tuple should have at least 1 item"),
        ("keys: [{name: a, key: short}]", "at least 16 characters"),
        ("keys: [{name: a}]", "give key or sha256"),
        (f"keys: [{{name: a, key: {WRITER}}}, {{name: b, key: {WRITER}}}]", "two keys are the same"),
        ("keys: [", "is no YAML"),
    ],
)
def test_files_of_keys(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says):
        Access.read(file)


def test_an_answer_in_time(folder: Path, served_backbone: Backbone) -> None:
    with client_of(folder, served_backbone, limits=Limits(timeout=1e-4)) as client:
        said = client.post("/classify", json={"model": "other", "input": ["a fine film"] * 50})
        assert said.status_code == 503
        assert "too much is asked" in said.json()["error"]["message"]


def test_no_more_wait_than_may(folder: Path, served_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Store(folder, served_backbone), most_waiting=2)
    begun, go_on = held_up(engine, monkeypatch)
    with running(create_app(engine)) as address, httpx.Client(base_url=address, timeout=60) as client:
        said = client.post("/classify", json={"model": "other", "input": ["a", "b", "c"]})
        assert said.status_code == 400
        assert "ask in parts" in said.json()["error"]["message"]
        held = engine.ask(["other"], ["a"], "127.0.0.1")
        assert begun.wait(60)
        waits = engine.ask(["other"], ["b", "c"], "127.0.0.1")
        said = client.post("/classify", json={"model": "other", "input": "d"})
        assert said.status_code == 429
        assert said.headers["Retry-After"] == "1"
        go_on.set()
        assert held.result(60)
        assert waits.result(60)
        assert client.post("/classify", json={"model": "other", "input": ["a", "b"]}).status_code == 200


def test_what_is_said_without_a_prompt_counts(folder: Path, served_backbone: Backbone) -> None:
    with client_of(folder, served_backbone, limits=Limits(max_answers=3)) as client:
        asked = {"model": "other", "input": ["a", "b"]}
        assert client.post("/classify", json=asked).status_code == 200
        said = client.post("/classify", json={**asked, "zero_shot": True})
        assert said.status_code == 413
        assert "3 answers" in said.json()["error"]["message"]


def test_who_asks_is_known_before_anything_is_read(client: httpx.Client) -> None:
    """A caller without a key is sent away while what it sends is still to come."""
    address = client.base_url
    with socket.create_connection((address.host, address.port or 80), timeout=30) as caller:
        caller.sendall(b"POST /v1/prompts HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 401")


def test_the_list_of_routes_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs").text
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(loaded) >= 3
    for path in loaded:
        assert client.get(path).status_code == 200, path


def test_metrics(client: httpx.Client) -> None:
    label(client, "film-a")
    text = client.get("/metrics", headers=by(WRITER)).text
    assert 'preface_requests_total{route="/classify",status="200"}' in text
    assert 'preface_answers_by_prompt_total{prompt="film-a"}' in text
    assert "preface_texts_read_total" in text
    assert WRITER not in text

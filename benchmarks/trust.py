"""A server under load and abuse: memory, hostile requests, kills, prompts replaced meanwhile.

    python benchmarks/trust.py [--minutes 10] [--hostile 10000] [--kills 5] [--backbone nano] [--out results]

Each part starts `preface serve` as a program of its own, asks good questions all the while, and compares every answer
with what the same prompt says when asked alone. Writes `trust.json`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from serving import ADAPTERS, Texts, hardware, put
from tqdm import tqdm

import preface
from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.records.results import installed_versions

Answers = dict[tuple[str, str], dict[str, float]]
"""What each prompt says of each text, asked alone."""
NEAR = 2e-3
"""How far a probability may be from that: what stands beside a row in a batch decides its last bits."""
KEPT = "64MB"
"""Of what was read of texts, where memory is watched: soon full."""


@contextmanager
def served(
    folder: Path, backbone: str, program: Sequence[str] = ("-m", "preface"), options: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of a folder, and its port."""
    command = [sys.executable, *program, "serve", str(folder), "--backbone", backbone, "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = ""
        while "running on" not in line:
            line = server.stderr.readline()
            if server.poll() is not None:
                raise SystemExit(f"the server did not start: {line}")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield server, int(re.findall(r":(\d+)", line)[-1])
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            server.wait(90)


def post(port: int, path: str, body: bytes, kind: str = "application/json", method: str = "POST") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"content-type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Good:
    """Callers that ask good questions until they are stopped, and compare the answers."""

    def __init__(self, port: int, known: Answers, callers: int = 8) -> None:
        self.port, self.known = port, list(known.items())
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(callers)]

    def __enter__(self) -> Good:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.stopped.is_set():
            (model, text), expected = draw.choice(self.known)
            try:
                status, said = post(self.port, "/classify", json.dumps({"model": model, "input": text}).encode())
            except OSError:
                self.counts["no connection"] += 1
                time.sleep(0.05)
                continue
            if status != 200:
                self.counts[f"status {status}"] += 1
                continue
            found = json.loads(said)["data"][0]["probabilities"]
            right = all(abs(found[word] - value) < NEAR for word, value in expected.items())
            self.counts["right" if right else "WRONG"] += 1


def endurance(folder: Path, backbone: Backbone, known: Answers, minutes: float, **_: Any) -> dict[str, Any]:
    """Memory, every so often, while new texts come as fast as they are answered."""
    sizes: list[tuple[float, float]] = []
    with served(folder, backbone.name, options=["--keep-texts", KEPT]) as (server, port), Good(port, known) as good:
        texts, began = Texts(7), time.monotonic()
        for step in tqdm(range(20), desc="at saturation"):
            until = began + 60 * minutes * (step + 1) / 20
            while time.monotonic() < until:  # new texts, beside those that are known
                post(port, "/classify", json.dumps({"model": "p0", "input": texts(16)}).encode())
            megabytes = psutil.Process(server.pid).memory_info().rss / 2**20
            sizes.append((round(time.monotonic() - began, 1), round(megabytes, 1)))
    return {"seconds and megabytes": sizes, "good requests": dict(good.counts)}


def hostile(folder: Path, backbone: Backbone, known: Answers, hostile: int, **_: Any) -> dict[str, Any]:
    """Malformed and hostile requests, and what they are answered; beside them, good ones."""
    draw, statuses = random.Random(3), Counter[str]()
    with served(folder, backbone.name) as (_server, port), Good(port, known, callers=2) as good:
        for _ in tqdm(range(hostile), desc="hostile requests"):
            path, kind, body, method = bad_request(draw)
            try:
                status, _said = post(port, path, body, kind, method)
                statuses[str(status)] += 1
            except OSError:
                statuses["connection closed"] += 1
        slow = [slow_client(port) for _ in range(50)]
        alive, _said = post(port, "/classify", json.dumps({"model": "p0", "input": "still there"}).encode())
        for each in slow:
            each.close()
    return {
        "statuses": dict(statuses),
        "5xx but 503": sum(count for status, count in statuses.items() if status[0] == "5" and status != "503"),
        "beside 50 clients that send nothing more": alive,
        "good requests": dict(good.counts),
    }


def schema(folder: Path, backbone: Backbone, known: Answers, **_: Any) -> dict[str, Any]:
    """What Schemathesis makes of the description of the routes (`pip install schemathesis`): no 5xx but 503."""
    with served(folder, backbone.name) as (_server, port), Good(port, known, callers=2) as good:
        command = ["st", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", "not_a_server_error", "--no-color"]
        command += ["--max-examples", "300", "--exclude-method", "DELETE"]  # what is removed would be missed
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    cases = re.findall(r"\d+ generated, .*", said.stdout)
    return {"cases": cases, "failed": said.returncode, "good requests": dict(good.counts)}


NAMES = ["../p0", "..", "p0/../../x", "%2e%2e", "p0\x00", "/etc/passwd", ".hidden", "x" * 5_000, "\ud800", "p0 ", ""]
PATHS = ["/classify", "/predict", "/v1/completions", "/v1/chat/completions", "/v1/prompts", "/v1/models", "/nowhere"]


def bad_request(draw: random.Random) -> tuple[str, str, bytes, str]:
    """Path, kind, body and method."""
    name = draw.choice([*NAMES, "p0", "nano"])
    junk = draw.choice([None, 3, -1e308, [], {}, [[]], "", "x" * 200_000, "\ud800", ["a"] * 5_000, {"text": None}])
    body = {
        "model": draw.choice([name, junk]), "models": draw.choice([[name], junk]), "input": junk, "inputs": junk,
        "prompt": junk, "messages": draw.choice([junk, [{"role": "user", "content": junk}]]), "max_tokens": junk,
        "temperature": draw.choice([junk, float("nan"), 1e9]), "stop": junk, "stream": draw.choice([True, junk]),
    }  # fmt: skip
    kept = {key: body[key] for key in draw.sample(sorted(body), draw.randrange(1, len(body)))}
    if draw.random() < 0.5:
        kept |= draw.choice([{"model": "p0"}, {"model": "p0", "input": "x"}, {"model": "p0", "prompt": "x"}])
    raw = json.dumps(kept).encode("utf-8", "surrogatepass")
    raw = draw.choice(
        [
            raw,
            raw,
            raw,
            raw[: len(raw) // 2],
            raw.replace(b'"', b"\xff"),
            b"[" * 100_000,
            b"",
            b"\x00" * 100,
            os.urandom(300),
        ]
    )
    no_prompt = draw.choice([name for name in NAMES if not name.startswith("p0")])  # one that is would be removed
    path = draw.choice([*PATHS, f"/v1/prompts/{no_prompt}".encode("ascii", "ignore").decode()])
    path = re.sub(r"[\x00-\x20]", "", path)[:2_000]
    kind = draw.choice(["application/json", "application/json", "text/plain", "multipart/form-data; boundary=x", ""])
    return path, kind, raw, draw.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE"])


def slow_client(port: int) -> socket.socket:
    """A connection that says the half of a request, and then nothing."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\ncontent-type: application/json\r\n\r\n{"
    )
    return client


def replaced(folder: Path, backbone: Backbone, known: Answers, **_: Any) -> dict[str, Any]:
    """A prompt is replaced again and again under load: each answer is one version's, whole."""
    versions = [put(folder.parent / f"version{number}", backbone, 100 + number) for number in range(2)]
    shutil.copytree(versions[0], folder / "changing")
    text = "a warm, funny film"
    expected = [alone(version, backbone, [text])[0] for version in versions]
    counts: Counter[str] = Counter()
    with served(folder, backbone.name) as (_server, port):
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                status, said = post(port, "/classify", json.dumps({"model": "changing", "input": [text] * 4}).encode())
                if status != 200:
                    counts[f"status {status}"] += 1
                    continue
                rows = [row["probabilities"] for row in json.loads(said)["data"]]
                fits = [all(near(row, one) for row in rows) for one in expected]
                counts["one version, whole" if any(fits) else "MIXED"] += 1

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for number in tqdm(range(300), desc="replacing"):
            status, said = send(port, "changing", versions[(number + 1) % 2])
            counts["replaced" if status == 201 else f"not replaced: {said!r}"] += 1
        stopped.set()
        for thread in threads:
            thread.join()
    shutil.rmtree(folder / "changing")
    return dict(counts)


def near(found: dict[str, float], expected: dict[str, float]) -> bool:
    return all(abs(found[word] - value) < NEAR for word, value in expected.items())


def send(port: int, name: str, folder: Path) -> tuple[int, bytes]:
    """Upload a prompt."""
    parts = [("name", name.encode(), "")]
    parts += [("card", (folder / "prompt.json").read_bytes(), "prompt.json")]
    parts += [("tensors", (folder / "prompt.safetensors").read_bytes(), "prompt.safetensors")]
    body = b""
    for field, content, file in parts:
        named = f'; filename="{file}"' if file else ""
        body += f'--xyz\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return post(port, "/v1/prompts", body + b"--xyz--\r\n", "multipart/form-data; boundary=xyz")


def kills(folder: Path, backbone: Backbone, known: Answers, kills: int, **_: Any) -> dict[str, Any]:
    """The server is killed in the middle of uploads, and started again: every prompt is whole."""
    version = put(folder.parent / "sent", backbone, 200)
    shutil.copytree(version, folder / "sent")
    found: Counter[str] = Counter()
    for number in tqdm(range(kills), desc="kills"):
        with served(folder, backbone.name) as (server, port):
            stopped = threading.Event()

            def upload(port: int = port, stopped: threading.Event = stopped) -> None:
                while not stopped.is_set():
                    with suppress(OSError, http.client.HTTPException):
                        send(port, "sent", version)

            thread = threading.Thread(target=upload)
            thread.start()
            time.sleep(1 + number / 7)
            server.kill()
            stopped.set()
            thread.join()
        with served(folder, backbone.name) as (_server, port):
            for (model, text), expected in [
                *list(known.items())[:8],
                (("sent", "x"), alone(version, backbone, ["x"])[0]),
            ]:
                status, said = post(port, "/classify", json.dumps({"model": model, "input": text}).encode())
                whole = status == 200 and near(json.loads(said)["data"][0]["probabilities"], expected)
                found["whole" if whole else f"DAMAGED: {model} {status}"] += 1
    shutil.rmtree(folder / "sent")
    return dict(found) | {"left over": [path.name for path in folder.iterdir() if path.name.startswith(".")]}


def full_disk(folder: Path, backbone: Backbone, known: Answers, **_: Any) -> dict[str, Any]:
    """A disk that is full: an upload fails with a reason, and what was there stays."""
    version = put(folder.parent / "large", backbone, 300)
    name = next(iter(known))[0]
    code = (
        "import resource, runpy, signal, sys;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048));"  # no file may grow beyond
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.argv = ['preface', *sys.argv[1:]]; runpy.run_module('preface', run_name='__main__')"
    )
    with served(folder, backbone.name, ["-c", code]) as (_server, port):
        status, said = send(port, name, version)
        text, expected = next((text, said) for (model, text), said in known.items() if model == name)
        _, after = post(port, "/classify", json.dumps({"model": name, "input": text}).encode())
        whole = near(json.loads(after)["data"][0]["probabilities"], expected)
    return {"upload": status, "message": said.decode()[:300], "the old prompt answers": whole}


def alone(folder: Path, backbone: Backbone, texts: Sequence[str]) -> list[dict[str, float]]:
    return [line["probabilities"] for text in texts for line in preface.predict(folder, [text], backbone=backbone)]


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "hostile": hostile,
    "schema": schema,
    "replaced": replaced,
    "kills": kills,
    "full disk": full_disk,
    "endurance": endurance,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    backbone = load_backbone(arguments.backbone)
    found: dict[str, Any] = {"machine": hardware(), "versions": installed_versions(), "backbone": arguments.backbone}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "prompts"
        texts, known = Texts(5)(6), {}
        for number in range(ADAPTERS):
            put(folder / f"p{number}", backbone, number)
            for text, said in zip(texts, alone(folder / f"p{number}", backbone, texts), strict=True):
                known[f"p{number}", text] = said
        for name in arguments.only:
            sizes = {"minutes": arguments.minutes, "hostile": arguments.hostile, "kills": arguments.kills}
            found[name] = PARTS[name](folder, backbone, known, **sizes)
            print(f"{name}: {json.dumps(found[name])[:1_500]}")
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                (arguments.out / "trust.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

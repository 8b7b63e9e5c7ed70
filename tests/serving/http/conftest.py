from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from preface.backbones.base import Backbone
from preface.serving.engine import Engine
from preface.serving.http.access import Access
from preface.serving.http.app import create_app
from preface.serving.http.limits import Limits
from preface.serving.store import Store


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of a server that serves an application, on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def client_of(
    folder: Path, backbone: Backbone, access: Access | None = None, limits: Limits | None = None
) -> Iterator[httpx.Client]:
    engine = Engine(Store(folder, backbone))
    with running(create_app(engine, access, limits)) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(served_folder: Path, served_backbone: Backbone) -> Iterator[httpx.Client]:
    with client_of(served_folder, served_backbone) as client:
        yield client

"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from preface.serving.engine import Engine


class Metrics:
    """Requests by route and status, and what the engine counts."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngine(engine))
        self.requests = Counter("preface_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "preface_request_seconds", "Time from a request to the end of its answer", ["route"], registry=self.registry
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _OfEngine(Collector):
    """The engine's own counts, as they are when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, counts = self.engine, self.engine.counts
        for name, what, value in (
            ("texts", "Texts that were asked about", counts.texts),
            ("texts_read", "Texts that were read", counts.texts_read),
            ("pieces_read", "Pieces that were read", counts.pieces_read),
            ("answers", "Answers, one a text and prompt", counts.answers),
            ("turns", "Batches", counts.turns),
            ("reading_seconds", "Time spent reading", counts.reading),
            ("answering_seconds", "Time spent answering", counts.answering),
        ):
            yield CounterMetricFamily(f"preface_{name}", what, value=value)
        by_prompt = CounterMetricFamily("preface_answers_by_prompt", "Answers of each prompt", labels=["prompt"])
        for prompt, count in list(counts.by_prompt.items()):
            by_prompt.add_metric([prompt], count)
        yield by_prompt
        for name, what, number in (
            ("waiting", "Texts that wait", len(engine.waiting) + len(engine.to_write)),
            ("writing", "Texts that are being written", len(engine.writers.writers)),
            ("kept_texts", "Texts whose states are kept", len(engine.kept)),
            ("kept_text_bytes", "Bytes of their states", engine.kept.bytes),
            ("loaded_prompts", "Prompts that are loaded", len(engine.store.loaded)),
        ):
            yield GaugeMetricFamily(f"preface_{name}", what, value=number)


class Measured:
    """Middleware that counts and times requests by the route that answered."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # a path that anybody can invent is no label
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)


def side_by_side(pages: Mapping[str, bytes]) -> bytes:
    """The pages of several servers as one, in which a label `replica` says whose each number is."""
    families: dict[str, Metric] = {}
    for replica, page in pages.items():
        for family in text_string_to_metric_families(page.decode()):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [each._replace(labels=each.labels | {"replica": replica}) for each in family.samples]
    return generate_latest(SimpleNamespace(collect=families.values))  # type: ignore[arg-type]

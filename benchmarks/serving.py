"""What `preface serve` promises, measured here and now: mixed batches, beside PEFT, many prompts, latency, HTTP.

    python benchmarks/serving.py [--backbone nano smollm2] [--runs 5] [--only NAME …] [--out results]

Prompts are prefixes of 10 that only the answer sees, with random numbers: what is computed is the same. Texts are made
of words of the embedded reviews, with as many as SST-2's sentences have, each of them new; both sides of a comparison
run in one process and in turn, and medians are shown. PEFT holds 16 prefixes as adapters, switches to the one that a
request names, and compares the first pieces of the label words after one forward pass, which is the least that can be
done with it; a second line lets it group 64 requests by adapter first. Writes `serving.json` and `serving.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sides import SST2_LENGTHS, hardware

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone, load_checkpoint
from preface.methods import PrefixTuning
from preface.methods.init import Initializer
from preface.records.card import Member, PromptCard, origin_of, save_prompt
from preface.records.results import installed_versions
from preface.serving.asked import Style
from preface.serving.engine import Engine
from preface.serving.store import Store
from preface.tasks import load_task
from preface.tasks.split import load_split

LENGTH = 10
"""Virtual tokens."""
TASK = "film"
ADAPTERS = 16
BATCH = 64
CLIENTS = 32
MANY = 10_000
"""Prompts that are registered."""
SECONDS = 10.0
"""Of each run at saturation."""


@dataclass
class Line:
    """One line of the table."""

    measure: str
    value: float
    unit: str
    details: Any
    most: float | None = None
    """The target, where it is a bound from above."""
    least: float | None = None
    """Or from below."""
    backbone: str = ""

    @property
    def target(self) -> str:
        return f"≤ {self.most:g}" if self.most is not None else "" if self.least is None else f"≥ {self.least:g}"

    @property
    def reached(self) -> str:
        if self.most is None and self.least is None:
            return ""
        good = self.value <= self.most if self.most is not None else self.value >= (self.least or 0.0)
        return "yes" if good else "no"


# what is served, and asked


def put(folder: Path, backbone: Backbone, seed: int, task_name: str = TASK) -> Path:
    """A prefix of random numbers, as `preface train` would write it."""
    task = load_task(task_name)
    method = PrefixTuning(length=LENGTH, sites=(backbone.answer_site,), init="random")
    with torch.no_grad():
        prompts = method.build(backbone, Initializer.parse("random", task.label_words), [seed])()
    card = PromptCard(
        **origin_of(backbone, method.record, task),
        max_input_tokens=512,
        trained_parameters=0,
        member=Member(0, 0.1, seed, 0.5, 0.7, 1),
        versions={},
    )
    save_prompt(folder, prompts, card)
    return folder


def filled(folder: Path, backbone: Backbone, count: int, distinct: int = BATCH) -> Store:
    """A store of so many prompts; beyond some, the files of the first ones under other names."""
    for number in range(min(count, distinct)):
        put(folder / f"p{number}", backbone, number)
    for number in range(distinct, count):
        (folder / f"p{number}").mkdir()
        for file in (folder / f"p{number % distinct}").iterdir():
            os.link(file, folder / f"p{number}" / file.name)
    return Store(folder, backbone)


class Texts:
    """Texts that nobody has read."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        examples = load_split(load_task("reviews"), "test").examples
        self.words = sorted({word for example in examples for word in re.findall(r"[a-z]+", example.text)})

    def __call__(self, count: int, words: int | None = None) -> list[str]:
        sizes = self.draw.choices(range(len(SST2_LENGTHS)), weights=SST2_LENGTHS, k=count)
        return [" ".join(self.draw.choices(self.words, k=words or max(2, size * 3 // 4))) for size in sizes]


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def burst(engine: Engine, models: Sequence[str], texts: Sequence[str]) -> float:
    """Seconds until requests that come at once are all answered."""

    def work() -> None:
        for future in [engine.ask([model], [text]) for model, text in zip(models, texts, strict=True)]:
            future.result()

    return seconds(work)


# the measures


def mixed_batch(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """64 texts under 64 prompts, beside 64 under one."""
    many, one = [f"p{number}" for number in range(BATCH)], ["p0"] * BATCH
    with Engine(filled(folder, backbone, BATCH)) as engine:
        burst(engine, many, texts(BATCH))
        times = [(burst(engine, many, texts(BATCH)), burst(engine, one, texts(BATCH))) for _ in range(runs)]
        yield Line("64 prompts beside one, new texts", ratio(times), "×", times, most=1.15)
        known = texts(BATCH)
        burst(engine, one, known)
        times = [(burst(engine, many, known), burst(engine, one, known)) for _ in range(runs)]
        yield Line("64 prompts beside one, texts read before", ratio(times), "×", times)


def ratio(times: Sequence[tuple[float, float]]) -> float:
    """The median of what the first took over what the second took beside it."""
    return median(first / second for first, second in times)


def fifty_on_one_text(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """50 prompts on one text of 200 pieces, beside one prompt."""
    models = [f"p{number}" for number in range(50)]
    with Engine(filled(folder, backbone, 50)) as engine:
        served = engine.store.get("p0")

        def text() -> list[str]:
            every = ([texts(1, words)[0]] for words in range(60, 400, 2))
            return next(one for one in every if len(served.pieces(backbone, one)[0][0]) >= 200)

        def ask(names: list[str]) -> float:
            one = text()
            return seconds(lambda: engine.ask(names, one).result())

        ask(models)
        times = [(ask(models), ask(models[:1])) for _ in range(runs)]
        yield Line("50 prompts on a text of 200 pieces, beside one", ratio(times), "×", times, most=2.5)


def beside_peft(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """A stream of requests, each for one of 16 prompts, beside PEFT: about texts that are all new, and where each text
    is asked about under all 16, as by a team with many questions."""
    peer, draw = Peft(backbone), random.Random(1)
    with Engine(filled(folder, backbone, ADAPTERS)) as engine:

        def new() -> list[tuple[int, str]]:
            return [(draw.randrange(ADAPTERS), text) for text in texts(BATCH)]

        def under_all() -> list[tuple[int, str]]:
            asked = [(number, text) for text in texts(2 * BATCH // ADAPTERS) for number in range(ADAPTERS)]
            return draw.sample(asked, len(asked))

        for what, stream in (("new texts", new), ("each text under 16 prompts", under_all)):
            ours, switched, grouped = [], [], []
            for _ in range(runs + 1):
                models, some = zip(*stream(), strict=True)
                ours.append(burst(engine, [f"p{number}" for number in models], some) / len(some))
                models, some = zip(*stream(), strict=True)
                switched.append(seconds(partial(peer.one_by_one, models, some)) / len(some))
                models, some = zip(*stream(), strict=True)
                grouped.append(seconds(partial(peer.grouped, models, some)) / len(some))
            first, second = list(zip(switched, ours, strict=True))[1:], list(zip(grouped, ours, strict=True))[1:]
            yield Line(f"throughput over PEFT's, switching, {what}", ratio(first), "×", first, least=10)
            yield Line(f"throughput over PEFT's, grouped by adapter, {what}", ratio(second), "×", second)


class Peft:
    """PEFT's prefixes on the same weights, each an adapter."""

    def __init__(self, backbone: Backbone) -> None:
        import peft

        model, _ = load_checkpoint(backbone.name, torch.float32)
        self.causal = not model.config.is_encoder_decoder
        config = peft.PrefixTuningConfig(
            task_type="CAUSAL_LM" if self.causal else "SEQ_2_SEQ_LM", num_virtual_tokens=LENGTH
        )
        self.model: Any = peft.get_peft_model(model, config, adapter_name="p0").eval()
        for number in range(1, ADAPTERS):
            self.model.add_adapter(f"p{number}", config)
        self.backbone = backbone
        task = load_task(TASK)
        self.question, self.cue = backbone.question("{text}", task.cue), task.cue
        self.words = [pieces[0] for pieces in backbone.answer_pieces(task.label_words, task.cue)]

    @torch.inference_mode()
    def ask(self, adapter: int, texts: Sequence[str]) -> list[int]:
        self.model.set_adapter(f"p{adapter}")
        written = [self.question.replace("{text}", text) for text in texts]
        ids, _ = self.backbone.tokenize(written, 512)
        lead_in = list(self.backbone.lead_in(self.cue))
        if self.causal:
            ids = [[*item, *lead_in] for item in ids]
        inputs, mask = self.backbone.pad(ids)
        given: dict[str, Any] = {"input_ids": inputs, "attention_mask": mask}
        if not self.causal:
            given["decoder_input_ids"] = torch.tensor([lead_in] * len(ids))
        logits = self.model(**given).logits
        last = mask.sum(1) - 1 if self.causal else torch.zeros(len(ids), dtype=torch.long)
        found: list[int] = logits[torch.arange(len(ids)), last][:, self.words].argmax(-1).tolist()
        return found

    def one_by_one(self, which: Sequence[int], texts: Sequence[str]) -> None:
        for adapter, text in zip(which, texts, strict=True):
            self.ask(adapter, [text])

    def grouped(self, which: Sequence[int], texts: Sequence[str]) -> None:
        for adapter in sorted(set(which)):
            self.ask(adapter, [text for own, text in zip(which, texts, strict=True) if own == adapter])


def ten_thousand(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """The throughput with 10,000 prompts registered beside that with ten."""
    few = Engine(filled(folder / "few", backbone, 10))
    many = Engine(filled(folder / "many", backbone, MANY, distinct=10))
    draw = random.Random(2)
    with few, many:
        for what, weights in (
            ("as often as names are (Zipf)", [1 / (rank + 1) for rank in range(MANY)]),
            ("all alike, so most are loaded anew", [1.0] * MANY),
        ):
            times = []
            for _ in range(runs + 1):
                ten = [f"p{draw.randrange(10)}" for _ in range(2 * BATCH)]
                all_of_them = [f"p{number}" for number in draw.choices(range(MANY), weights, k=2 * BATCH)]
                times.append((burst(few, ten, texts(2 * BATCH)), burst(many, all_of_them, texts(2 * BATCH))))
            yield Line(f"throughput with {MANY:,} prompts, {what}", ratio(times[1:]), "×", times[1:], least=0.9)


def saturated(texts: Texts, ask: Callable[[str, str], Any]) -> tuple[list[float], float]:
    """What each request took while 32 callers each ask as soon as they are answered, and how many were answered a
    second. One text in 50 has 400 words."""
    took: list[float] = []
    until = time.perf_counter() + SECONDS
    prepared = [[*texts(49), *texts(1, 400)] for _ in range(CLIENTS)]

    def caller(number: int) -> None:
        draw = random.Random(number)
        own = prepared[number]
        while (began := time.perf_counter()) < until:
            ask(f"p{draw.randrange(ADAPTERS)}", f"{draw.choice(own)} {draw.randrange(10**6)}")
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, len(took) / (time.perf_counter() - began)


def latency(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """The slowest hundredth beside the median, at saturation."""
    with Engine(filled(folder, backbone, ADAPTERS)) as engine:

        def ask(model: str, text: str) -> None:
            engine.ask([model], [text], model).result()

        found = []
        for _ in range(max(2, runs // 2)):
            took, rate = saturated(texts, ask)
            found.append({"p99": quantiles(took, n=100)[98], "median": median(took), "requests a second": rate})
        slow = median(each["p99"] / each["median"] for each in found)
        yield Line("p99 over the median, at saturation", slow, "×", found, most=3)


def over_http(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """What HTTP costs beside the engine: the same requests by a program of its own, over eight connections."""
    import uvicorn

    from preface.serving.http.app import create_app

    engine = Engine(filled(folder, backbone, ADAPTERS))
    config = uvicorn.Config(create_app(engine), "127.0.0.1", 0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    count = 4 * BATCH

    def ask(model: str, some: list[str]) -> None:
        engine.ask([model], some).result()

    for each in (1, 8):
        pairs = []
        for run in range(runs + 1):
            draw = random.Random(run)
            asked = [(f"p{draw.randrange(ADAPTERS)}", texts(each)) for _ in range(count // each)]
            again = [(model, texts(each)) for model, _ in asked]

            pairs.append((by_a_program(port, again), seconds(partial(closed_loop, asked, ask))))
        more = 100 * (ratio(pairs[1:]) - 1)
        what = "one text" if each == 1 else f"{each} texts"
        yield Line(f"HTTP over the engine, {what} a request", more, "%", pairs[1:], most=15)
    server.should_exit = True
    thread.join()


def closed_loop(asked: Sequence[tuple[str, list[str]]], ask: Callable[[str, list[str]], Any], callers: int = 8) -> None:
    """Requests by eight callers, each of which asks when it is answered."""
    left = iter(asked)
    lock = threading.Lock()

    def caller() -> None:
        while True:
            with lock:
                one = next(left, None)
            if one is None:
                return
            ask(*one)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


CLIENT = """
import http.client, json, sys, threading, time
port, asked = int(sys.argv[1]), json.load(sys.stdin)
bodies = iter([json.dumps({"model": model, "input": texts}).encode() for model, texts in asked])
lock = threading.Lock()
def caller():
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    while True:
        with lock:
            body = next(bodies, None)
        if body is None:
            return
        connection.request("POST", "/classify", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
threads = [threading.Thread(target=caller) for _ in range(8)]
began = time.perf_counter()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.perf_counter() - began)
"""


def by_a_program(port: int, asked: Sequence[tuple[str, list[str]]]) -> float:
    """Seconds of the same over HTTP, measured by the program that asks."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(port)], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def writing(backbone: Backbone, folder: Path, texts: Texts, runs: int) -> Iterator[Line]:
    """Pieces a second that are written at once for 1 and 8 callers, by the bare model."""
    folder.mkdir()
    with Engine(Store(folder, backbone)) as engine:
        for callers in (1, 8):
            rates = []
            for _ in range(runs + 1):
                began = time.perf_counter()
                futures = [engine.write(engine.bare, text, Style(48)) for text in texts(callers, 30)]
                pieces = sum(len(future.result().pieces) for future in futures)
                rates.append(pieces / (time.perf_counter() - began))
            yield Line(f"pieces written, {callers} at once", median(rates[1:]), "a second", rates[1:])


MEASURES: dict[str, Callable[[Backbone, Path, Texts, int], Iterator[Line]]] = {
    "mixed": mixed_batch,
    "fifty": fifty_on_one_text,
    "peft": beside_peft,
    "latency": latency,
    "http": over_http,
    "ten-thousand": ten_thousand,
    "writing": writing,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["nano", "smollm2"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    lines: list[Line] = []
    console = Console()
    for name in arguments.backbone:
        backbone = load_backbone(name, arguments.dtype)
        for measure in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                for line in MEASURES[measure](backbone, Path(folder) / measure, Texts(), arguments.runs):
                    line.backbone = name
                    lines.append(line)
                    if arguments.out is not None:
                        write(arguments.out, lines, arguments.runs)
                    console.print(f"{line.backbone}: {line.measure}: {line.value:.3g} {line.unit} {line.target}")
    console.print(table(lines))


def write(folder: Path, lines: Sequence[Line], runs: int) -> None:
    """What was measured so far."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": hardware(), "versions": installed_versions(), "runs": runs}
    content["lines"] = [asdict(line) | {"reached": line.reached} for line in lines]
    (folder / "serving.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "serving.md").write_text(markdown(lines), encoding="utf-8")


def table(lines: Sequence[Line]) -> Table:
    made = Table(title=f"Serving, on {hardware()}")
    for column in ("measure", "backbone", "value", "target", "reached"):
        made.add_column(column, justify="left" if column in ("measure", "backbone") else "right")
    for row in rows_of(lines):
        made.add_row(*row)
    return made


def markdown(lines: Sequence[Line]) -> str:
    head = [("measure", "backbone", "value", "target", "reached"), ("---", "---", "---:", "---:", "---")]
    rows = [*head, *rows_of(lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def rows_of(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    return [(line.measure, line.backbone, f"{line.value:.3g} {line.unit}", line.target, line.reached) for line in lines]


if __name__ == "__main__":
    main()

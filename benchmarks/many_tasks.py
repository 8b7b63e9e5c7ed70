"""What all tasks' answers about one text take: one frozen model with a prompt for each, beside a tuned model for each.

    preface compare many-tasks --out runs/many-tasks
    python benchmarks/many_tasks.py runs/many-tasks [--pieces 200] [--runs 15] [--dtype float32]

Takes the prompts that the experiment trained. Every text is new. Tasks about one text read it alike, so it is read once
for them; those about a pair of texts read it beside a short second one, each in its own words. A tuned model reads the
text by itself, with as much arithmetic as the bare model: it is timed as a prompt whose text nobody has read, which is
a few keys more. Both sides run in one process and in turn; medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from serving import Texts
from sides import hardware

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.records.card import load_prompt
from preface.serving.engine import Engine
from preface.serving.store import Store

SECOND = "That is what is asked here."
"""The second text of a task about a pair."""


@dataclass(frozen=True)
class Found:
    """What is stored and what it takes."""

    prompts: int
    read: int
    """Times that a text is read for all prompts."""
    prompt_bytes: int
    """Of all prompts."""
    model_bytes: int
    """Of the backbone's weights, of which tuned models have a copy each."""
    one: float
    """Seconds for one answer about a new text."""
    together: float
    """Seconds for all answers about a new text, asked at once."""
    apart: float
    """Seconds for all answers, each of them with a reading of its own."""

    def __str__(self) -> str:
        prompts, model = self.prompt_bytes / 1e6, self.model_bytes / 1e6
        one, together, apart = (1e3 * seconds for seconds in (self.one, self.together, self.apart))
        return (
            f"{self.prompts} prompts: {prompts:.1f} MB beside the model's {model:.0f} MB; "
            f"as many tuned models: {self.prompts * model:,.0f} MB\n"
            f"all answers about a new text, read {self.read} times: {together:.1f} ms, one answer {one:.1f} ms\n"
            f"each answer with a reading of its own: {apart:.1f} ms, {apart / together:.1f} × as long"
        )


def prompts_of(folder: Path) -> dict[str, Path]:
    """The exported prompt of each task of an experiment, by the task's name."""
    found = {path.parents[2].name.strip("-"): path for path in sorted(folder.glob("tasks/*/train/*/prompt"))}
    if not found:
        raise SystemExit(
            f"{folder}: no tasks/TASK/train/METHOD/prompt here; give a folder of `preface compare many-tasks`"
        )
    return found


def row_of(store: Store, names: Sequence[str], text: str) -> dict[str, str]:
    """One row that has every task's fields: the text, and a second one where a task is about more."""
    tasks = [store.get(name).card.task for name in names]
    more = {field for task in tasks for field in task.text_fields}
    return dict.fromkeys(more, SECOND) | {task.fields.input[0]: text for task in tasks}


def measured(paths: Mapping[str, Path], backbone: Backbone, pieces: int, runs: int) -> Found:
    names, texts = list(paths), Texts()
    with (
        tempfile.TemporaryDirectory() as empty,
        Engine(Store(empty, backbone, also=paths)) as engine,
    ):

        def seconds(*groups: Sequence[str]) -> float:
            """Until each group has answered about a new text of its own, one group after the other."""
            rows = [row_of(engine.store, names, new()) for _ in groups]
            began = time.perf_counter()
            for group, row in zip(groups, rows, strict=True):
                engine.ask(group, [row]).result()
            return time.perf_counter() - began

        def new() -> str:
            ((ids,), _) = backbone.tokenize(texts(1, pieces), pieces)
            return str(backbone.tokenizer.decode(ids, skip_special_tokens=True))

        alone = [[name] for name in names]
        seconds(names)
        read = engine.counts.texts_read
        times = [(seconds(names[:1]), seconds(names), seconds(*alone)) for _ in range(runs)]
        one, together, apart = (median(each) for each in zip(*times, strict=True))
    files = sum((path / "prompt.safetensors").stat().st_size for path in paths.values())
    return Found(len(names), read, files, backbone.parameters * backbone.dtype.itemsize, one, together, apart)


def about_one_text(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The prompts whose tasks are about a text alone."""
    return {name: path for name, path in paths.items() if len(load_prompt(path).card.task.text_fields) == 1}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pieces", type=int, default=200)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="a JSON file")
    arguments = parser.parse_args(given)
    backbone, paths = load_backbone(arguments.backbone, arguments.dtype), prompts_of(arguments.folder)
    found = {
        what: measured(some, backbone, arguments.pieces, arguments.runs)
        for what, some in (("all tasks", paths), ("tasks about a text alone", about_one_text(paths)))
    }
    console = Console(soft_wrap=True)
    for what, each in found.items():
        console.print(f"{what}, {hardware()}\n{each}\n")
    if arguments.out is not None:
        record = {"machine": hardware(), **{what: asdict(each) for what, each in found.items()}}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

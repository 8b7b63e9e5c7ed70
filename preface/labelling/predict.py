"""Label rows with a trained prompt, as a stream."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.fit import backbone_of
from preface.labelling.free_text import FreeText, wanted, write_each
from preface.labelling.labeller import Labeller, predictions_of
from preface.labelling.multi_label import Labels, MultiLabel
from preface.labelling.voting import combined
from preface.records.card import SavedPrompt, load_prompt
from preface.records.run import Run
from preface.tasks import Example, Row, Task, iter_examples, load_task, render
from preface.tasks.label_sets import as_set

CHUNK = 256
"""Rows held at a time: enough to batch by length, few enough for any length of input."""

Item = tuple[Row, Example]


def predict(
    run: Run | str | Path,
    source: str | Path | Sequence[str | Mapping[str, Any]] = "-",
    *,
    input: str | None = None,
    encoding: str = "utf-8",
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    skip_bad_rows: bool = False,
    on_skip: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Label rows with the best prompt of a run.

    Args:
        run: a run, its folder, or a prompt's folder.
        source: a data file; `-`: standard input (JSON Lines or CSV), answered as it arrives; or a
            list of texts, or of rows as dictionaries.
        input: the field that holds the text (default: the training task's).
        encoding: of the file.
        backbone: default: the one that the prompt was trained on, which must not have changed since.
        dtype, device: as for `load_backbone`.
        skip_bad_rows: leave out what cannot be read instead of stopping; `on_skip` hears a line about each.

    Yields:
        `{"label": …, "probabilities": {word: …}, "line": …, "original": …, "cut": …}` a row, in the order of the rows
        (`{"answer": …, "line": …, "cut": …}` where the task's answers are free text, and `{"labels": […], …}` where a
        text may have several labels);
        `original`, the label as the training data had it, only where that is another than the word and no other has the
        same word; `cut` only where the text was too long. Memory does not grow with the number of rows.

    Raises:
        UserError: what the user can put right. Rows before the bad one have been yielded.
    """
    predictor = Predictor(run, input, backbone, dtype, device)
    rows = source if isinstance(source, str | Path) else _rows(predictor.task, source)
    yield from predictor(rows, encoding=encoding, skip_bad_rows=skip_bad_rows, on_skip=on_skip)


class Predictor:
    """A prompt and its backbone, loaded once, which label rows."""

    def __init__(
        self,
        run: Run | str | Path,
        input: str | None = None,
        backbone: Backbone | str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        """The arguments of `predict`. Raises UserError."""
        folder, known = (run.folder, run.backbone) if isinstance(run, Run) else (Path(run), None)
        saved = load_prompt(folder)
        saved.refuse_shared()
        model = backbone_of(saved.card, backbone, known, dtype, device)
        saved.check_sizes(model)
        self.task = saved.card.task if input is None else load_task(saved.card.task, input=input)
        self.guess = input is None
        self.answer = _Answers(model, saved)

    def __call__(self, source: str | Path | Iterable[Row], **how: Any) -> Iterator[dict[str, Any]]:
        """A line for each row of a file, or of rows; `how`: as for `iter_examples`. Raises UserError."""
        items = iter_examples(self.task, source, guess=self.guess, **how)
        chunks = _as_they_arrive(items) if isinstance(source, str | Path) and _may_wait(source) else _full(items)
        for chunk, error in chunks:
            yield from self.answer(chunk)
            if error is not None:
                raise error


class _Answers:
    """What a prompt says of rows, as lines."""

    def __init__(self, model: Backbone, saved: SavedPrompt) -> None:
        self.model = model
        self.wanted = wanted(model, saved.card.task)
        self.labeller = Labeller(model, saved.prompts, self.wanted)
        self.question = model.question(saved.card.task.wording, saved.card.task.cue)
        self.limit = saved.card.max_input_tokens
        self.ensemble = saved.card.ensemble
        self.originals = originals(saved.card.task)

    def __call__(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        ids, cut = render(self.model.tokenize, [example for _, example in items], self.limit, self.question)
        inputs = Inputs(self.model, ids)
        asked = self.wanted
        said = self._written(inputs, asked) if isinstance(asked, FreeText) else self._chosen(inputs, asked)
        for (row, _), line, was_cut in zip(items, said, cut, strict=True):
            yield line | {"line": row.line} | self._original(line) | ({"cut": True} if was_cut else {})

    def _chosen(self, inputs: Inputs, words: Labels) -> Iterator[dict[str, Any]]:
        scores = combined(self.labeller.label_each(inputs), self.ensemble)
        for prediction in predictions_of(scores, words):
            label: dict[str, Any] = {"label": prediction.label}
            if isinstance(words, MultiLabel):
                right = as_set(prediction.label)
                label = {"labels": [word for word in words.words if word in right]}
            yield label | {"probabilities": prediction.probabilities}

    def _written(self, inputs: Inputs, text: FreeText) -> Iterator[dict[str, Any]]:
        for said in write_each(self.labeller, text, inputs)[0]:
            yield {"answer": said}

    def _original(self, line: Mapping[str, Any]) -> dict[str, Any]:
        if self.originals and "labels" in line:
            return {"original": [self.originals.get(word, word) for word in line["labels"]]}
        label = line.get("label")
        return {"original": self.originals[label]} if label in self.originals else {}


def originals(task: Task) -> dict[str, str]:
    """The label of each word in the task's own data, for words that are not labels and stand for one alone."""
    found: dict[str, list[str]] = {}
    for label, word in task.labels.items():
        if word is not None:
            found.setdefault(word, []).append(label)
    return {word: labels[0] for word, labels in found.items() if len(labels) == 1 and labels != [word]}


def _rows(task: Task, given: Sequence[str | Mapping[str, Any]]) -> Iterator[Row]:
    field = task.fields.input[0]
    for number, item in enumerate(given, 1):
        yield Row("source", number, {field: item} if isinstance(item, str) else dict(item), "row")


def _may_wait(source: str | Path) -> bool:
    """True for what is no plain file, such as a pipe or a terminal, whose next row may be long in coming."""
    try:
        mode = os.fstat(0).st_mode if str(source) == "-" else os.stat(source).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def _full(items: Iterator[Item]) -> Iterator[tuple[list[Item], Exception | None]]:
    """Rows `CHUNK` at a time, and the error that ended them early: what was read before it is still answered."""
    chunk: list[Item] = []
    try:
        for item in items:
            chunk.append(item)
            if len(chunk) == CHUNK:
                yield chunk, None
                chunk = []
    except Exception as error:
        yield chunk, error
        return
    if chunk:
        yield chunk, None


def _as_they_arrive(items: Iterator[Item]) -> Iterator[tuple[list[Item], Exception | None]]:
    """As `_full`, but what has arrived is answered, however little, and the next rows are read meanwhile."""
    queue: Queue[Item | Exception | None] = Queue(CHUNK)
    stop = Event()
    Thread(target=_read, args=(items, queue, stop), daemon=True).start()
    try:
        while (first := queue.get()) is not None:
            arrived: list[Item | Exception | None] = [first]
            with suppress(Empty):
                while isinstance(arrived[-1], tuple) and len(arrived) < CHUNK:
                    arrived.append(queue.get_nowait())
            error = arrived[-1] if isinstance(arrived[-1], Exception) else None
            yield [item for item in arrived if isinstance(item, tuple)], error
            if not isinstance(arrived[-1], tuple):
                return
    finally:
        stop.set()


def _read(items: Iterator[Item], queue: Queue[Any], stop: Event) -> None:
    """Put the rows, then what ended them, into the queue, as long as somebody takes them."""

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    try:
        for item in items:
            put(item)
            if stop.is_set():
                return
    except Exception as error:
        put(error)
    else:
        put(None)

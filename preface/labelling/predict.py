"""Label rows with a trained prompt, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone
from preface.labelling.evaluate import check_fit
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller, predictions_of
from preface.records.checkpoint import load_prompt
from preface.records.run import Run
from preface.tasks import Task, iter_examples, load_task, render

CHUNK = 256
"""Rows held at a time: enough to batch by length, few enough for any length of input."""


def predict(
    run: Run | str | Path,
    source: str | Path = "-",
    *,
    input: str | None = None,
    encoding: str = "utf-8",
    backbone: Backbone | str | None = None,
    skip_bad_rows: bool = False,
    on_skip: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Label the rows of a file or of standard input with the best prompt of a run.

    Args:
        run: a run, its folder, or a prompt's folder.
        source: CSV, TSV, JSON Lines or Parquet; `-`: standard input (JSON Lines or CSV).
        input: the field that holds the text (default: the training task's).
        encoding: of the file.
        backbone: default: the one that the prompt was trained on.
        skip_bad_rows: leave out what cannot be read instead of stopping; `on_skip` hears a line about each.

    Yields:
        `{"label": …, "probabilities": {word: …}, "line": …, "cut": …}` a row, in the order of the rows; `cut` only
        where the text was too long. Memory does not grow with the number of rows.

    Raises:
        UserError: what the user can put right. Rows before the bad one have been yielded.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    saved = load_prompt(folder)
    if isinstance(run, Run) and backbone is None:
        backbone = run.backbone
    backbone = backbone or saved.card["backbone"]
    model = load_backbone(backbone) if isinstance(backbone, str) else backbone
    check_fit(saved.card, model)
    task = Task.model_validate(saved.card["task"])
    if input is not None:
        task = load_task(task, input=input)
    labels = LabelWords.of(model, saved.card["label_words"])
    labeller = Labeller(model, saved.prompts, labels)
    limit = saved.card["max_input_tokens"]
    rows = iter_examples(task, source, skip_bad_rows=skip_bad_rows, on_skip=on_skip, encoding=encoding)
    while chunk := _take(rows, CHUNK):
        items, error = chunk
        inputs, cut = render(model.tokenize, [example for _, example in items], limit)
        predictions = predictions_of(labeller.label(Inputs(model, inputs)), labels)
        for (row, _), prediction, was_cut in zip(items, predictions, cut, strict=True):
            line: dict[str, Any] = {
                "label": prediction.label,
                "probabilities": prediction.probabilities,
                "line": row.line,
            }
            if was_cut:
                line["cut"] = True
            yield line
        if error is not None:
            raise error


def _take(rows: Iterator[Any], count: int) -> tuple[list[Any], Exception | None] | None:
    """The next rows, and the error that ended them early: what was read before it is still answered."""
    items: list[Any] = []
    try:
        for item in islice(rows, count):
            items.append(item)
    except Exception as error:
        return items, error
    return (items, None) if items else None

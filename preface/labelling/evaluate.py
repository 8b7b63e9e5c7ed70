"""How well prompts do on tasks, their own and others."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import DEFAULT, load_backbone
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller, Prediction, predictions_of
from preface.labelling.metric import metric
from preface.prompts import Prompts as SoftPrompts
from preface.prompts import stack
from preface.records.checkpoint import SavedPrompt, load_prompt
from preface.records.results import Cell, read_cells, write_cells
from preface.records.run import RECORD, Run
from preface.tasks import Split, Task, Template, load_split, load_task, render
from preface.tasks.registry import registered, split_reference
from preface.terminal.progress import progress, warn, warn_skipped

ZERO_SHOT = "zero-shot"
INSTRUCTION = "review sentiment: {text}"
"""What the zero-shot column says to the embedded backbone, in the words of its own training."""

Scoring = Literal["rank", "generate"]
Prompts = Literal["best", "rate", "all"]


def evaluate(
    run: Run | str | Path | None = None,
    on: Sequence[str | Path | Task] = (),
    *,
    backbone: Backbone | str | None = None,
    instruction: str = INSTRUCTION,
    prompts: Prompts = "rate",
    scoring: Scoring = "rank",
    split: Literal["train", "validation", "test"] = "test",
    input: str | None = None,
    label: str | None = None,
    label_words: Mapping[str, str] | None = None,
    encoding: str | None = None,
    data: str | Path | None = None,
    skip_bad_rows: bool = False,
    max_input_tokens: int | None = None,
    out: str | Path | None = None,
) -> list[Cell]:
    """Evaluate a run's prompts, or the bare backbone, on tasks.

    Args:
        run: a run, its folder, or a prompt's folder; None: the frozen backbone alone, zero-shot, with `instruction`.
        on: tasks (default: the one trained on), in any form that `load_task` takes.
        backbone: default: the one that the prompts were trained on.
        instruction: the template that the zero-shot backbone reads; `{text}` stands for the input.
        prompts: `best` by development score; `rate`: every seed at the best learning rate; `all`.
        scoring: `rank` the label words by probability, or `generate` freely and demand an exact match; then
            `details["illegal"]` is the share of answers that are no label at all.
        input, label, label_words, encoding, data, skip_bad_rows: as for `train`, for data files among `on`.
        max_input_tokens: default: as in training, else 512.
        out: folder for `results.json` and predictions (default: `evaluations/` in the run's; none without a run).

    Returns:
        One cell for each prompt and task.

    Raises:
        UserError: what the user can put right.
    """
    if run is None:
        wearers: list[_Wearer] = [_Wearer(SoftPrompts.bare(), {}, {})]
        train_record: dict[str, Any] = {}
    else:
        wearers, train_record, folder, loaded = _wearers(run, prompts)
        out = out or folder / "evaluations"
        backbone = backbone or loaded or train_record["backbone"]
    backbone = backbone or DEFAULT
    model = load_backbone(backbone) if isinstance(backbone, str) else backbone
    if run is not None:
        check_fit(train_record, model)
    else:
        Template.of(instruction)  # what is wrong with it should be known before the work
    if not on:
        if run is None:
            raise UserError("on: no task given; `--on sst2`, or a data file")
        on = [Task.model_validate(train_record["task"])]
    own: dict[str, Any] = {"input": input, "label": label, "label_words": label_words, "encoding": encoding}
    if label_words is None and train_record:
        # a data file may hold the words themselves, or the labels of the file that was trained on
        words = {word: word for word in train_record["label_words"]}
        own["label_words"] = words | train_record["task"]["labels"]
    # a shipped task knows its own fields: the options describe the data files beside it
    tasks = [load_task(task, **({} if _is_shipped(task) else own)) for task in on]
    if repeated := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise UserError(f"on: {repeated[0]} is named twice; evaluate files of one name one after another")
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        read_cells(Path(out) / "results.json")  # what is there should be known to be ours before the work, not after
    limit = max_input_tokens or train_record.get("max_input_tokens", 512)

    cells: list[Cell] = []
    for task in tasks:
        examples = load_split(task, split, data=data, skip_bad_rows=skip_bad_rows)
        _warn_seen(task, examples, train_record)
        words = train_record.get("label_words", task.label_words)
        foreign = sorted({str(example.label) for example in examples.examples} - set(words))
        if foreign:
            advice = " ".join(f"{label}={words[-1]}" for label in foreign)
            raise UserError(
                f"{task.name}: the labels {', '.join(foreign)} are not among the words that the prompt was trained for "
                f"({', '.join(words)}); map every label with --label-words, as in `--label-words {advice} …`"
            )
        began = time.perf_counter()
        predictions, cut = predictions_on(
            model, examples, words, [wearer.prompt for wearer in wearers], scoring, limit,
            instruction if run is None else "{text}",
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if cut:
            warn(f"{task.name}: {cut:,} of {len(examples.examples):,} inputs were cut to {limit} tokens")
        warn_skipped(task.name, examples.skipped)
        gold = [str(example.label) for example in examples.examples]
        for wearer, given in zip(wearers, predictions, strict=True):
            labels = [prediction.label for prediction in given]
            if len(set(labels)) == 1 and len(labels) > 1:
                warn(f"{task.name}: {wearer.method} predicts {labels[0]!r} for every row")
            details = dict(wearer.details) | {
                "scoring": scoring,
                "instruction": instruction if run is None else None,
                "backbone_saw": list(model.seen_tasks),
                "cut_inputs": cut,
                "skipped": list(examples.skipped),
                "sources": [asdict(source) for source in examples.sources],
            }
            if scoring == "generate":
                details["illegal"] = sum(label not in words for label in labels) / len(labels)
            cells.append(
                Cell(
                    backbone=model.name,
                    method=wearer.method,
                    train_task=train_record.get("task", {}).get("name"),
                    eval_task=task.name,
                    metric=task.metric,
                    value=metric(task.metric, gold, labels),
                    n=len(gold),
                    seed=wearer.details.get("seed"),
                    trained_parameters=wearer.trained_parameters,
                    seconds=seconds / len(wearers),
                    split=split,
                    details=details,
                )
            )
            if out is not None:
                _write_predictions(Path(out), cells[-1], examples, given)
        if out is not None:
            _merge_cells(Path(out) / "results.json", cells)
    return cells


def predictions_on(
    backbone: Backbone,
    examples: Split,
    words: Sequence[str],
    prompts: Sequence[SoftPrompts],
    scoring: Scoring = "rank",
    max_input_tokens: int = 512,
    template: str = "{text}",
) -> tuple[list[list[Prediction]], int]:
    """What each prompt says of each example, all prompts in the same batches; and how many inputs were cut."""
    labels = LabelWords.of(backbone, words)
    inputs, cut = render(backbone.tokenize, examples.examples, max_input_tokens, template)
    size = len(inputs)
    tokenized = Inputs(backbone, inputs)
    labeller = Labeller(backbone, stack(prompts), labels)
    with progress(f"{examples.task} · {len(prompts)} prompt(s)", size * len(prompts), "rows") as advance:
        if scoring == "generate":
            longest = max(map(len, labels.pieces)) + 1
            rows = [index for index in range(len(prompts)) for _ in inputs]
            every = tokenized.repeated(len(prompts))
            written = labeller.generate(every, rows, max_new_tokens=longest, on_batch=advance)
            flat = [Prediction(text, None) for text in written]
            return [flat[start : start + size] for start in range(0, len(flat), size)], sum(cut)
        scores = labeller.label_each(tokenized, advance)  # [P, N, C]
    return [predictions_of(of_prompt, labels) for of_prompt in scores], sum(cut)


def _is_shipped(task: str | Path | Task) -> bool:
    return isinstance(task, Task) or split_reference(str(task))[0] in registered()


@dataclass(frozen=True)
class _Wearer:
    """One prompt to be evaluated, or the bare backbone."""

    prompt: SoftPrompts
    card: Mapping[str, Any]
    details: Mapping[str, Any]
    trained_parameters: int = 0

    @property
    def method(self) -> str:
        return self.card["method"]["name"] if self.card else ZERO_SHOT


def _wearers(run: Run | str | Path, prompts: Prompts) -> tuple[list[_Wearer], dict[str, Any], Path, Backbone | None]:
    """The prompts to evaluate, what they were trained on, their folder, and the backbone if it is loaded."""
    if not isinstance(run, Run) and (Path(run) / "prompt.json").exists() and not (Path(run) / RECORD).exists():
        saved = load_prompt(run)
        return [_wearer(saved)], dict(saved.card), Path(run), None
    run = run if isinstance(run, Run) else Run.open(run)
    chosen = {"best": [run.best], "rate": run.best_rate, "all": run.members}[prompts]
    result, recipe = run.record["result"], run.record["recipe"]
    training = {
        "train_seconds": result["seconds"],
        "train_steps": result["steps"],
        "members": len(result["members"]),
    }
    wearers = [_wearer(run.prompt(member.index), training) for member in chosen]
    return wearers, run.record | {"max_input_tokens": recipe["max_input_tokens"]}, run.folder, run.backbone


def _wearer(saved: SavedPrompt, training: Mapping[str, Any] | None = None) -> _Wearer:
    member = saved.card["member"]
    details = {
        "seed": member["seed"],
        "learning_rate": member["learning_rate"],
        "development_score": member["score"],
        "method": saved.card["method"]["config"],
    }
    return _Wearer(saved.prompts, saved.card, details | dict(training or {}), saved.card["trained_parameters"])


def check_fit(card: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise UserError if a prompt was made for a backbone of another shape; warn if only the weights differ.

    `card` is a prompt's or a run's record.
    """
    if card["shape"] != backbone.sizes:
        raise UserError(
            f"the prompt was trained on {card['backbone']} and does not fit {backbone.name}, whose sizes differ"
        )
    if card["fingerprint"] != backbone.fingerprint:
        warn(f"the prompt was trained on other weights of {card['backbone']} than these of {backbone.name}")


def _warn_seen(task: Task, examples: Split, train_record: Mapping[str, Any]) -> None:
    """Say so where a data file is both: its test split is all its rows, those trained on among them."""
    trained = train_record.get("splits", {}).get("train", {}).get("sources", [])
    hashes = {source["sha256"] for source in trained}
    if not task.splits[examples.split].apart and any(source.sha256 in hashes for source in examples.sources):
        warn(f"{task.name}: these rows are those that the prompt was trained on; its score on them says little")


def _write_predictions(folder: Path, cell: Cell, examples: Split, given: Sequence[Prediction]) -> None:
    name = f"{Path(cell.eval_task).name}-{cell.split}-{cell.method}".replace(":", "-")
    if cell.seed is not None:
        name += f"-lr{cell.details['learning_rate']:g}-seed{cell.seed}"
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for example, prediction in zip(examples.examples, given, strict=True):
            line = {
                "label": prediction.label,
                "gold": example.label,
                "probabilities": prediction.probabilities,
            }
            print(json.dumps(line | {"text": example.text}, ensure_ascii=False), file=file)


def _merge_cells(path: Path, cells: Sequence[Cell]) -> None:
    """Add cells to `results.json`; a cell measured anew takes the old one's place."""
    new = {cell.identity for cell in cells}
    write_cells(path, [cell for cell in read_cells(path) if cell.identity not in new] + list(cells))

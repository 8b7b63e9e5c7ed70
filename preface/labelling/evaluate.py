"""How well prompts do on tasks, their own and others."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preface.backbones.base import Backbone
from preface.backbones.load import computed_in
from preface.errors import UserError
from preface.labelling.answers import PLAIN, predictions_on
from preface.labelling.fit import backbone_of, loaded
from preface.labelling.labeller import Prediction
from preface.labelling.measures import measured
from preface.labelling.options import EvaluateOptions
from preface.labelling.subjects import Subject, Subjects, check_answers, subjects_of
from preface.labelling.wording import Wording, best_wording
from preface.options import divided, validated
from preface.records.atomic import write_atomically
from preface.records.results import COMPUTED, RESULTS, Cell, add_cells, read_cells
from preface.records.run import Run, RunRecord
from preface.tasks import Example, Split, Task
from preface.tasks.find import RowsNotFoundError, refuse_outside
from preface.tasks.label_sets import NONE
from preface.tasks.metric import of_numbers
from preface.tasks.options import DataOptions
from preface.tasks.task import Instruction
from preface.terminal.progress import say, warn, warn_skipped


def evaluate(
    run: Run | str | Path | None = None,
    on: str | Path | Task | Sequence[str | Path | Task] = (),
    *,
    backbone: Backbone | str | None = None,
    out: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> list[Cell]:
    """Evaluate a run's prompts, or the bare backbone, on tasks.

    Args:
        run: a run, its folder, or a prompt's folder; None: the frozen backbone alone, zero-shot, with `instruction`, or
            with the wording of each task that does best on its development rows.
        on: a task, or several (default: the one trained on), in any form that `load_task` takes.
        backbone: default: the one that the prompts were trained on, which must not have changed since.
        out: folder for `results.json` and predictions (default: `evaluations/` in the run's; none without a run).
        dtype, device: as for `load_backbone`.
        options: fields of `preface.labelling.options.EvaluateOptions` (`prompts`, `scoring`, `split`, …), and of
            `preface.tasks.options.DataOptions` (`input`, `label`, `label_words`, …) for data files among `on`.

    Returns:
        One cell for each prompt and task. Its details hold `confusion` (rows by right label, then by given label), of
        several labels a text `labels` (precision, recall and F1 of each) and `metrics`, for accuracies `interval`
        (95 %), and where labels were generated `illegal`, the share of answers that are none.

    Raises:
        UserError: what the user can put right.
    """
    how_fields, data_fields = divided(options, EvaluateOptions, DataOptions)
    how, data = validated(EvaluateOptions, how_fields), validated(DataOptions, data_fields)
    subjects = subjects_of(run, how.prompts)
    if subjects.origin is None:
        model = loaded(backbone, dtype, device)
    else:
        model = backbone_of(subjects.origin, backbone, subjects.backbone, dtype, device)
        for subject in subjects.all:
            if subject.saved is not None:
                subject.saved.check_sizes(model)
    given = {"instruction": how.instruction, "cue": data.cue}
    if subjects.origin is not None and (name := next((name for name, value in given.items() if value), None)):
        raise UserError(f"{name}: is for the bare backbone; a prompt reads and answers as it was trained to")
    if how.scoring == "generate" and any(subject.ensemble for subject in subjects.all):
        raise UserError("scoring generate: an ensemble writes no text of its own; give scoring rank")
    if not on and isinstance(subjects.origin, RunRecord) and subjects.origin.skip_bad_rows:
        data = data.model_copy(update={"skip_bad_rows": True})  # its own rows are read as they were in training
    tasks = tasks_of(on, subjects, data)
    if how.scoring == "generate" and (wrong := next((task for task in tasks if of_numbers(task.metric)), None)):
        raise UserError(
            f"scoring generate: {wrong.name} is judged by numbers, and text need be none; give scoring rank"
        )
    several = next((task for task in tasks if task.multi_label), None)
    if how.scoring == "generate" and several is not None:
        raise UserError(f"scoring generate: {several.name} asks about each label of a text; give scoring rank")
    for task in tasks:
        if task.free_text and how.calibration != "none":
            raise UserError(f"calibration {how.calibration}: {task.name} is answered in free text, which has no scores")
        if subjects.origin is not None:
            check_answers(subjects.origin.task, task)
    subjects_on = [subjects.on(task) for task in tasks]
    folder = Path(out) if out else subjects.folder and subjects.folder / "evaluations"
    there: list[Cell] = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        there = read_cells(folder / RESULTS)  # what is there should be known to be ours before the work
    cells: list[Cell] = []
    for task, own in zip(tasks, subjects_on, strict=True):
        examples = data.split(task, how.split)
        _refuse_other_file(there, task, examples, folder)
        if not on:
            say(f"{task.name}, the task of the prompt: read from {', '.join(s.name for s in examples.sources)}")
        cells += _Evaluation(model, own, how, data, folder).on(task, examples)
    return cells


def tasks_of(on: str | Path | Task | Sequence[str | Path | Task], subjects: Subjects, data: DataOptions) -> list[Task]:
    """The tasks to evaluate on. Raises UserError if there are none, or two of one name."""
    origin = subjects.origin
    if not on:
        if origin is None:
            raise UserError("on: no task given; `--on sst2`, or a data file")
        if subjects.foreign:
            refuse_outside(origin.task)
        return list(origin.task.mixture) if subjects.shared else [origin.task]
    named = [on] if isinstance(on, str | Path | Task) else on
    tasks = [data.eval_task(task, None if origin is None else origin.task) for task in named]
    if repeated := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise UserError(f"on: {repeated[0]} is named twice; evaluate files of one name each with an --out of its own")
    return tasks


def _refuse_other_file(there: Sequence[Cell], task: Task, examples: Split, folder: Path | None) -> None:
    """Raise UserError where the folder has scores on another file of the same name, which would be replaced."""
    own = {source.name: source.sha256 for source in examples.sources}
    for cell in there:
        before = {source["name"]: source["sha256"] for source in cell.details.get("sources", ())}
        if (cell.eval_task, cell.split) != (task.name, examples.split) or not before or before.keys() & own.keys():
            continue
        if set(before.values()) != set(own.values()):
            raise UserError(
                f"{folder}: has scores on another {task.name} ({next(iter(before))}); give this one an --out of its own"
            )


@dataclass(frozen=True)
class _Evaluation:
    """What is evaluated, how, and where its results go."""

    backbone: Backbone
    subjects: Subjects
    how: EvaluateOptions
    data: DataOptions
    folder: Path | None

    def on(self, task: Task, examples: Split) -> list[Cell]:
        """A cell for each prompt on one task; written, with its predictions."""
        subjects, how = self.subjects, self.how
        words = self._words(task)
        check_labels(task, examples, words)
        limit = how.max_input_tokens or subjects.max_input_tokens
        prompts = [subject.prompts for subject in subjects.all]
        wording = self._wording(task, limit)
        began = time.perf_counter()
        predictions, cut = predictions_on(
            self.backbone,
            examples.examples,
            words,
            prompts,
            how.scoring,
            limit,
            wording.instruction,
            subjects.origin.task.cue if subjects.origin else task.cue,
            title=f"{examples.task} · {sum(some.size for some in prompts)} prompt(s)",
            calibration=how.calibration,
            ensembles=[subject.ensemble for subject in subjects.all],
            answer_pieces=task.answer_pieces,
            multi_label=task.multi_label,
        )
        seconds = (time.perf_counter() - began) / len(prompts)
        self._warn(task, examples, cut, limit)
        circumstances = {
            "scoring": "generate" if task.free_text else how.scoring,
            **({} if how.calibration == "none" else {"calibration": how.calibration}),
            "instruction": None if subjects.origin else wording.instruction.template,
            "instruction_chosen_on": wording.chosen_on,
            **({} if how.max_input_tokens is None else {"max_input_tokens": limit}),
            **({} if self.data.cue is None else {"cue": task.cue}),
            "backbone_saw": list(self.backbone.seen_tasks),
            COMPUTED: computed_in(self.backbone),
            "cut_inputs": cut,
            "skipped": list(examples.skipped),
            "sources": [asdict(source) for source in examples.sources],
        }
        cells = [
            self._cell(task, examples, subject, given, circumstances, seconds)
            for subject, given in zip(subjects.all, predictions, strict=True)
        ]
        if self.folder is not None:
            cells = [
                with_predictions(cell, _predictions_path(self.folder, cell), examples.examples, given)
                for cell, given in zip(cells, predictions, strict=True)
            ]
            add_cells(self.folder / RESULTS, cells)
        return cells

    def _cell(
        self,
        task: Task,
        examples: Split,
        subject: Subject,
        given: Sequence[Prediction],
        circumstances: Mapping[str, Any],
        seconds: float,
    ) -> Cell:
        """What one prompt's predictions amount to."""
        words = self._words(task)
        labels = [prediction.label for prediction in given]
        if len(set(labels)) == 1 and len(labels) > 1:
            warn(f"{task.name}: {subject.method} predicts {labels[0]!r} for every row")
        value, details = measured(task.metric, examples.examples, labels, words)
        if self.how.scoring == "generate" and words:
            details["illegal"] = sum(label not in words for label in labels) / len(labels)
        return Cell(
            backbone=self.backbone.name,
            method=subject.method,
            train_task=self.subjects.origin.task.name if self.subjects.origin else None,
            eval_task=task.name,
            metric=task.metric,
            value=value,
            n=len(labels),
            seed=subject.seed,
            trained_parameters=subject.trained_parameters,
            seconds=seconds,
            split=examples.split,
            details={**subject.details, **circumstances, **details},
        )

    def _wording(self, task: Task, limit: int) -> Wording:
        """What is read: the text as a prompt was trained on it, or what the bare backbone does best with."""
        if self.subjects.origin is not None:
            return Wording(Instruction(template=self.subjects.origin.task.wording))
        if self.how.instruction is not None:
            return Wording(self.how.instruction)
        if (development := self._development(task)) is not None:
            if self.how.split == "validation" or not task.splits[self.how.split].apart:
                warn(
                    f"{task.name}: its wording is chosen on rows that are among those evaluated; give an --instruction"
                )
            return best_wording(self.backbone, task, development.examples, limit, calibration=self.how.calibration)
        wording = Wording(next(iter(task.instructions), PLAIN))
        say(f"{task.name}: no development rows to choose a wording by; it is {wording.instruction.shown}")
        return wording

    def _development(self, task: Task) -> Split | None:
        """The rows that a wording is chosen on; None if the task has none, or they are nowhere to be found."""
        if "validation" not in task.splits:
            return None
        try:
            return self.data.split(task, "validation")
        except RowsNotFoundError:
            return None

    def _words(self, task: Task) -> tuple[str, ...]:
        return self.subjects.origin.task.words_for(task) if self.subjects.origin else task.label_words

    def _warn(self, task: Task, examples: Split, cut: int, limit: int) -> None:
        """Say what a number alone would hide."""
        if cut:
            warn(f"{task.name}: {cut:,} of {len(examples.examples):,} inputs were cut to {limit} tokens")
        warn_skipped(task.name, examples.skipped)
        # where a data file is both: its test split is all its rows, those trained on among them
        seen = any(source.sha256 in self.subjects.trained_on for source in examples.sources)
        if seen and not task.splits[examples.split].apart:
            warn(f"{task.name}: these rows are those that the prompt was trained on; its score on them says little")


def check_labels(task: Task, examples: Split, words: Sequence[str]) -> None:
    """Raise UserError for rows whose label is none of the words, if there are any."""
    labels = {label for example in examples.examples for label in example.labels or [str(example.label)]}
    foreign = sorted(labels - {*words, *([NONE] if task.multi_label else [])})
    if foreign and words:
        advice = " ".join(f"{label}={words[-1]}" for label in foreign)
        raise UserError(
            f"{task.name}: the labels {', '.join(foreign)} are not among the words that the prompt was trained for "
            f"({', '.join(words)}); map every label with --label-words, as in `--label-words {advice} …`"
        )


def _unusual(cell: Cell) -> list[str]:
    """What tells a cell's files from those of the same prompt evaluated otherwise."""
    details, said = cell.details, [*cell.unusual.values()]
    said += [f"{details['max_input_tokens']}-tokens"] if "max_input_tokens" in details else []
    texts = [details[name] for name in ("instruction", "cue") if details.get(name) is not None]
    return said + [hashlib.sha256(text.encode()).hexdigest()[:6] for text in texts]


def _predictions_path(folder: Path, cell: Cell) -> Path:
    name = f"{Path(cell.eval_task).name}-{cell.split}-{cell.method}".replace(":", "-")
    name += "".join(f"-{said}" for said in _unusual(cell))
    if cell.seed is not None:
        name += f"-lr{cell.details['learning_rate']:g}-seed{cell.seed}"
    return folder / f"{name}.jsonl"


def with_predictions(cell: Cell, path: Path, examples: Sequence[Example], given: Sequence[Prediction]) -> Cell:
    """Write what was said of each row, as JSON a line; the cell then says where."""
    rows = zip(examples, given, strict=True)
    lines = [asdict(prediction) | {"gold": example.gold, "text": example.text} for example, prediction in rows]
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return replace(cell, details=cell.details | {"predictions": str(path)})

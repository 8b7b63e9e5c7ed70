"""Make one answer of several prompts, and say what that gains."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import computed_in
from preface.errors import UserError
from preface.labelling.evaluate import check_labels, tasks_of
from preface.labelling.fit import backbone_of
from preface.labelling.labeller import Labeller, predictions_of
from preface.labelling.measures import measured
from preface.labelling.multi_label import Labels, labels_of
from preface.labelling.subjects import Subjects, check_answers, subjects_of
from preface.labelling.voting import combined, fitted_weights
from preface.options import validated
from preface.prompts import Prompts, stack
from preface.records.card import Ensemble, MethodRecord, PromptCard, SavedPrompt, load_prompt, save_ensemble
from preface.records.results import COMPUTED, RESULTS, STORED, Cell, add_cells, installed_versions, read_cells
from preface.records.run import RECORD, Run, RunRecord
from preface.tasks import Example, Split, Task, render
from preface.tasks.find import refuse_outside
from preface.tasks.options import DataOptions
from preface.terminal.progress import progress, say, warn

Combine = Literal["mean", "vote", "weighted"]
COLUMNS: dict[Combine, str] = {"vote": "majority vote", "mean": "mean probability", "weighted": "fitted weights"}
TIMED = 64
"""Development rows that say how long all prompts take in one batch, and how long one after the other."""
MEMBER, BEST = "a prompt alone", "the best alone"


def ensemble(
    runs: Sequence[Run | str | Path],
    out: str | Path,
    on: str | Path | Task | Sequence[str | Path | Task] = (),
    *,
    combine: Combine = "mean",
    prompts: Literal["best", "rate", "all"] = "rate",
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> list[Cell]:
    """Save an ensemble of trained prompts, which `evaluate` and `predict` take as they take a prompt, and measure it.

    All its prompts answer in one batch; a text that none of them reads with is read once.

    Args:
        runs: finished runs of one task on one backbone, or folders of single prompts.
        out: the ensemble's folder.
        on: a task, or several, to measure on (default: the one trained on).
        combine: what is saved: `mean` probability, majority `vote`, or probabilities `weighted` so that the right
            labels of the development rows are likeliest. All three are measured.
        prompts: of each run the `best` prompt, every seed at the best `rate`, or `all`.
        backbone, dtype, device: as for `evaluate`.
        options: fields of `preface.tasks.options.DataOptions`.

    Returns:
        Cells of every prompt alone, of the one with the best development score, and of each way to combine them. The
        details of the last hold `costs`: `rows` that were timed, the seconds that they take `together`, in one batch,
        and `apart`, one prompt after the other, and `copies`, the bytes of as many copies of the model in float32.

    Raises:
        UserError: what the user can put right.
    """
    for name, value, known in (("combine", combine, get_args(Combine)), ("prompts", prompts, ("best", "rate", "all"))):
        if value not in known:
            raise UserError(f"{name} {value}: one of {', '.join(known)}")
    data = validated(DataOptions, options)
    folder = Path(out)
    _check_free(folder)
    saved, loaded, foreign = _saved(runs, prompts)
    card = saved[0].card
    _check_alike(saved)
    _check_different(saved)
    if card.task.free_text:
        raise UserError(f"{card.task.name}: its answers are free text, and only labels can be voted on")
    model = backbone_of(card, backbone, loaded, dtype, device)
    for one in saved:
        one.check_sizes(model)
    voters = _Voters(model, saved)
    records = [_record_of(run) for run in runs]
    if any(record is not None and record.recipe.get("folds") for record in records):
        warn(
            "runs with folds were trained on the development rows too, which the weights of `weighted` are fitted on; "
            "the mean and the vote are not concerned"
        )
    data = _where_the_run_found_it(data, records[0])
    tasks = tasks_of(on, Subjects([], card, foreign=foreign), data)
    for task in tasks:
        check_answers(card.task, task)
    if foreign:
        refuse_outside(card.task)
    tests = [data.split(task, "test") for task in tasks]  # what cannot be measured should be known before the work
    for task, split in zip(tasks, tests, strict=True):
        check_labels(task, split, card.task.words_for(task))
    read_cells(folder / RESULTS)
    development = data.split(card.task, "validation")
    scores = voters.scores(development, voters.labels)
    gold = voters.labels.gold(str(example.label) for example in development.examples)
    # each question about a text's several labels is a row
    ways = _ways(saved, fitted_weights(scores.flatten(1, -2), gold.flatten()))
    best = max(range(len(saved)), key=lambda place: _rank(saved[place]))
    _save(folder, saved, ways[combine], best)
    costs = voters.costs(development.examples[:TIMED])
    cells: list[Cell] = []
    for task, split in zip(tasks, tests, strict=True):
        cells += voters.measured(task, split, ways, best, costs)
    add_cells(folder / RESULTS, cells)
    return cells


def _check_free(folder: Path) -> None:
    """Raise UserError where something else lies than an ensemble."""
    if folder.is_file():
        raise UserError(f"{folder}: is a file; --out names the folder that the ensemble will be in")
    if (folder / RECORD).exists():
        raise UserError(f"{folder}: a run is there; give another --out")
    if (folder / "prompt.json").exists() or (
        (folder / "prompt" / "prompt.json").exists() and load_prompt(folder).card.ensemble is None
    ):
        raise UserError(f"{folder}: a prompt is there; give another --out")


def _saved(
    runs: Sequence[Run | str | Path], prompts: Literal["best", "rate", "all"]
) -> tuple[list[SavedPrompt], Backbone | None, bool]:
    """The prompts of all runs; the backbone of one that has it loaded; whether one may come from anywhere."""
    every = [subjects_of(run, prompts) for run in runs]
    saved = [subject.saved for subjects in every for subject in subjects.all if subject.saved is not None]
    if nested := [one for one in saved if one.card.ensemble is not None]:
        raise UserError(f"{nested[0].folder}: is an ensemble itself; give the runs that it is made of")
    for one in saved:
        one.refuse_shared()
    if len(saved) < 2:
        raise UserError(
            f"an ensemble needs two prompts, and there is {len(saved)}: train with --seeds 3, give more runs, or "
            "--prompts all"
        )
    loaded = next((subjects.backbone for subjects in every if subjects.backbone is not None), None)
    return saved, loaded, any(subjects.foreign for subjects in every)


def _check_alike(saved: Sequence[SavedPrompt]) -> None:
    """Raise UserError unless all prompts answer the same question of the same model."""
    first = saved[0]
    for other in saved[1:]:
        for what, one, another in (
            ("backbone", first.card.fingerprint, other.card.fingerprint),
            ("label words", first.card.label_words, other.card.label_words),
            ("task", first.card.task.name, other.card.task.name),
            ("cue", first.card.task.cue, other.card.task.cue),
            ("wording", first.card.task.wording, other.card.task.wording),
        ):
            if one != another:
                raise UserError(f"{other.folder}: has another {what} than {first.folder}; an ensemble needs the same")
        if (first.prompts.labels is None) != (other.prompts.labels is None):
            vectors, words = (other, first) if first.prompts.labels is None else (first, other)
            raise UserError(
                f"{vectors.folder}: answers with label vectors ({vectors.card.method.name}), and {words.folder} with "
                "label words; make an ensemble of each kind"
            )


def _check_different(saved: Sequence[SavedPrompt]) -> None:
    """Raise UserError where a prompt is there twice, which would count double."""
    there: dict[str, SavedPrompt] = {}
    for one in saved:
        twin = there.setdefault(_digest([one]), one)
        if twin is one:
            continue
        if twin.folder.resolve() == one.folder.resolve():
            raise UserError(f"{one.folder}: is given twice; an ensemble needs different prompts")
        member = one.card.member
        untrained = ", neither having been trained" if member is not None and member.untrained else ""
        raise UserError(
            f"{one.folder}: is the same prompt as {twin.folder}{untrained}; an ensemble needs different ones, which "
            "may be given by their own folders"
        )


def _record_of(run: Run | str | Path) -> RunRecord | None:
    """What a run was configured with; None: it is a prompt's folder."""
    if isinstance(run, Run):
        return run.record
    return Run.open(run).record if (Path(run) / RECORD).exists() else None


def _where_the_run_found_it(data: DataOptions, record: RunRecord | None) -> DataOptions:
    """The data folder of a run, unless another is named."""
    if data.data is not None or record is None:
        return data
    return data.model_copy(update={"data": record.data, "skip_bad_rows": data.skip_bad_rows or record.skip_bad_rows})


def _ways(saved: Sequence[SavedPrompt], weights: Sequence[float]) -> dict[Combine, Ensemble]:
    """Each way to combine the prompts."""
    alike = [1 / len(saved)] * len(saved)
    return {
        way: Ensemble(
            combine=way,
            weights=tuple(weights if way == "weighted" else alike),
            members=tuple(one.card.member for one in saved),
            runs=tuple(str(one.folder.resolve()) for one in saved),
        )
        for way in COLUMNS
    }


def _save(folder: Path, saved: Sequence[SavedPrompt], chosen: Ensemble, best: int) -> None:
    cards = [one.card for one in saved]
    origin = {name: getattr(cards[0], name) for name in ("backbone", "revision", "fingerprint", "shape", "task")}
    card = PromptCard(
        **origin,
        label_words=cards[0].label_words,
        method=MethodRecord(
            name="ensemble", config={"combine": chosen.combine, "prompts": len(saved), "of": _digest(saved)[:8]}
        ),
        max_input_tokens=max(card.max_input_tokens for card in cards),
        trained_parameters=sum(card.trained_parameters for card in cards),
        member=cards[best].member,
        ensemble=chosen,
        versions=installed_versions(),
    )
    save_ensemble(folder / "prompt", [one.prompts for one in saved], card)


def _rank(saved: SavedPrompt) -> tuple[float, float]:
    """What the best prompt has most of; one that was trained elsewhere, whose scores are not known, has least."""
    member = saved.card.member
    return (-math.inf, -math.inf) if member is None else (member.score, -member.loss)


def _digest(saved: Sequence[SavedPrompt]) -> str:
    """Which prompts these are."""
    digest = hashlib.sha256()
    for one in saved:
        for name, tensor in sorted(one.prompts.tensors_of(0).items()):
            digest.update(name.encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class _Voters:
    """Prompts that answer side by side."""

    model: Backbone
    saved: Sequence[SavedPrompt]

    def __post_init__(self) -> None:
        card = self.saved[0].card
        self.labels = self._labels(card.label_words)
        self.prompts = stack([one.prompts for one in self.saved])
        self.digest = _digest(self.saved)[:8]
        """In a few letters."""
        self.question = self.model.question(card.task.wording, card.task.cue)
        self.limit = max(one.card.max_input_tokens for one in self.saved)

    def _labels(self, words: Sequence[str]) -> Labels:
        task = self.saved[0].card.task
        return labels_of(self.model, words, task.cue, task.multi_label)

    def scores(self, split: Split, labels: Labels) -> Tensor:
        """Log-probabilities `[E, N, C]`, or `[E, N, C, 2]`."""
        inputs = Inputs(self.model, self._pieces(split.examples), keep=self.prompts.leaves_reading)
        with progress(f"{split.task} · {len(self.saved)} prompts", len(inputs) * len(self.saved), "rows") as advance:
            return Labeller(self.model, self.prompts, labels).label_each(inputs, advance)

    def costs(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What it takes beside an ensemble of whole models, which answer one after the other."""
        pieces = self._pieces(examples)
        return {
            "rows": len(pieces),
            "together": self._seconds([self.prompts], pieces),
            "apart": self._seconds([one.prompts for one in self.saved], pieces),
            "copies": len(self.saved) * self.model.parameters * 4,
        }

    def _seconds(self, several: Sequence[Prompts], pieces: Sequence[Sequence[int]]) -> float:
        """How long prompts take to answer about the same texts one after the other, each reading them itself."""
        labellers = [Labeller(self.model, prompts, self.labels) for prompts in several]
        began = time.perf_counter()
        for labeller in labellers:
            labeller.label_each(Inputs(self.model, pieces))
        return time.perf_counter() - began

    def measured(
        self, task: Task, split: Split, ways: dict[Combine, Ensemble], best: int, costs: dict[str, Any]
    ) -> list[Cell]:
        """A cell for each prompt alone, for the best of them, and for each way to combine them."""
        labels = self._labels(self.saved[0].card.task.words_for(task))
        began = time.perf_counter()
        scores = self.scores(split, labels)
        seconds = time.perf_counter() - began
        alone, found = seconds / len(self.saved), []
        for place, (one, said) in enumerate(zip(self.saved, scores, strict=True)):
            about: dict[str, Any] = {"run": str(one.folder)}
            if one.card.member is not None:
                about["learning_rate"] = one.card.member.learning_rate
            found.append(self._cell(task, split, labels, MEMBER, said, alone, [one], place, about))
        found.append(self._cell(task, split, labels, BEST, scores[best], alone, [self.saved[best]]))
        for way, name in COLUMNS.items():
            said = combined(scores, ways[way])
            found.append(self._cell(task, split, labels, name, said, seconds, self.saved, about={"costs": costs}))
        return found

    def _cell(
        self,
        task: Task,
        split: Split,
        labels: Labels,
        name: str,
        scores: Tensor,
        seconds: float,
        saved: Sequence[SavedPrompt],
        place: int | None = None,
        about: Mapping[str, Any] = {},
    ) -> Cell:
        """`place`: of a prompt among all, which stands for its seed: runs may have the same."""
        predicted = [prediction.label for prediction in predictions_of(scores, labels)]
        value, details = measured(task.metric, split.examples, predicted, labels.words)
        return Cell(
            backbone=self.model.name,
            method=name,
            train_task=self.saved[0].card.task.name,
            eval_task=task.name,
            metric=task.metric,
            value=value,
            n=len(predicted),
            seed=place,
            trained_parameters=sum(one.card.trained_parameters for one in saved),
            seconds=seconds,
            details={
                **details,
                "prompts": len(self.saved),
                "ensemble": self.digest,
                COMPUTED: computed_in(self.model),
                STORED: sum(one.stored_bytes for one in saved),
                **about,
            },
        )

    def _pieces(self, examples: Sequence[Example]) -> list[list[int]]:
        ids, cut = render(self.model.tokenize, examples, self.limit, self.question)
        if any(cut):
            say(f"{sum(cut):,} of {len(ids):,} inputs were cut to {self.limit} tokens")
        return ids

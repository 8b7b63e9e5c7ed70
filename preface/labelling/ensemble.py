"""Make one answer of several prompts, and say what that gains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.errors import UserError
from preface.labelling.fit import backbone_of
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.labelling.measures import measured
from preface.labelling.subjects import subjects_of
from preface.labelling.voting import combined, fitted_weights
from preface.options import validated
from preface.prompts import stack
from preface.records.card import Ensemble, MethodRecord, PromptCard, SavedPrompt, load_prompt, save_ensemble
from preface.records.results import Cell, add_cells, installed_versions
from preface.records.run import Run
from preface.tasks import Example, Split, Task, render
from preface.tasks.options import DataOptions
from preface.terminal.progress import progress, say

Combine = Literal["mean", "vote", "weighted"]
COLUMNS: dict[Combine, str] = {"vote": "majority vote", "mean": "mean probability", "weighted": "fitted weights"}
MEMBER, BEST = "a prompt alone", "the best alone"


def ensemble(
    runs: Sequence[Run | str | Path],
    out: str | Path,
    on: Sequence[str | Path | Task] = (),
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
        on: tasks to measure on (default: the one trained on).
        combine: what is saved: `mean` probability, majority `vote`, or probabilities `weighted` so that the right
            labels of the development rows are likeliest. All three are measured.
        prompts: of each run the `best` prompt, every seed at the best `rate`, or `all`.
        backbone, dtype, device: as for `evaluate`.
        options: fields of `preface.tasks.options.DataOptions`.

    Returns:
        Cells of every prompt alone, of the one with the best development score, and of each way to combine them.

    Raises:
        UserError: what the user can put right.
    """
    for name, value, known in (("combine", combine, get_args(Combine)), ("prompts", prompts, ("best", "rate", "all"))):
        if value not in known:
            raise UserError(f"{name} {value}: one of {', '.join(known)}")
    data = validated(DataOptions, options)
    saved, loaded = _saved(runs, prompts)
    card = saved[0].card
    _check_alike(saved)
    model = backbone_of(card, backbone, loaded, dtype, device)
    for one in saved:
        one.check_sizes(model)
    voters = _Voters(model, saved)
    development = _split(data, card.task, "validation", runs[0])
    scores = voters.scores(development)
    gold = torch.tensor([card.label_words.index(str(example.label)) for example in development.examples])
    ways = _ways(saved, fitted_weights(scores, gold))
    folder = Path(out)
    _save(folder, saved, ways[combine])
    chosen = max(range(len(saved)), key=lambda place: (saved[place].card.member.score, -saved[place].card.member.loss))
    cells: list[Cell] = []
    for task in [data.eval_task(item, dict(card.task.labels)) for item in on] or [card.task]:
        split = _split(data, task, "test", runs[0])
        cells += voters.measured(task, split, ways, chosen)
    add_cells(folder / "results.json", cells)
    return cells


def _saved(
    runs: Sequence[Run | str | Path], prompts: Literal["best", "rate", "all"]
) -> tuple[list[SavedPrompt], Backbone | None]:
    """The prompts of all runs, and the backbone of one that has it loaded."""
    every = [subjects_of(run, prompts) for run in runs]
    saved = [subject.saved for subjects in every for subject in subjects.all if subject.saved is not None]
    if nested := [one for one in saved if one.card.ensemble is not None]:
        raise UserError(f"{nested[0].folder}: is an ensemble itself; give the runs that it is made of")
    if len(saved) < 2:
        raise UserError(
            f"an ensemble needs two prompts, and there is {len(saved)}: train with --seeds 3, give more runs, or "
            "--prompts all"
        )
    return saved, next((subjects.backbone for subjects in every if subjects.backbone is not None), None)


def _check_alike(saved: Sequence[SavedPrompt]) -> None:
    """Raise UserError unless all prompts answer the same question of the same model."""
    first = saved[0]
    for other in saved[1:]:
        for what, one, another in (
            ("backbone", first.card.fingerprint, other.card.fingerprint),
            ("label words", first.card.label_words, other.card.label_words),
            ("cue", first.card.task.cue, other.card.task.cue),
        ):
            if one != another:
                raise UserError(f"{other.folder}: has another {what} than {first.folder}; an ensemble needs the same")


def _split(data: DataOptions, task: Task, name: str, run: Run | str | Path) -> Split:
    """A split of a task; of the one trained on, where the run found it, unless told elsewhere."""
    if data.data is None and not isinstance(run, Run) and (Path(run) / "run.json").exists():
        run = Run.open(run)
    if data.data is None and isinstance(run, Run) and run.record.data is not None:
        data = data.model_copy(update={"data": run.record.data})
    return data.split(task, name)


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


def _save(folder: Path, saved: Sequence[SavedPrompt], chosen: Ensemble) -> None:
    if (folder / "run.json").exists():
        raise UserError(f"{folder}: a run is there; give another --out")
    cards = [one.card for one in saved]
    best = max(cards, key=lambda card: (card.member.score, -card.member.loss))
    origin = {name: getattr(cards[0], name) for name in ("backbone", "revision", "fingerprint", "shape", "task")}
    card = PromptCard(
        **origin,
        label_words=cards[0].label_words,
        method=MethodRecord(name="ensemble", config={"combine": chosen.combine, "prompts": len(saved)}),
        max_input_tokens=max(card.max_input_tokens for card in cards),
        trained_parameters=sum(card.trained_parameters for card in cards),
        member=best.member,
        ensemble=chosen,
        versions=installed_versions(),
    )
    save_ensemble(folder, [one.prompts for one in saved], card)


@dataclass
class _Voters:
    """Prompts that answer side by side."""

    model: Backbone
    saved: Sequence[SavedPrompt]

    def __post_init__(self) -> None:
        card = self.saved[0].card
        self.labels = LabelWords.of(self.model, card.label_words, card.task.cue)
        self.prompts = stack([one.prompts for one in self.saved])
        self.question = self.model.question("{text}", card.task.cue)
        self.limit = max(one.card.max_input_tokens for one in self.saved)

    def scores(self, split: Split) -> Tensor:
        """Log-probabilities `[E, N, C]`."""
        inputs = Inputs(self.model, self._pieces(split.examples), keep=self.prompts.leaves_reading)
        with progress(f"{split.task} · {len(self.saved)} prompts", len(inputs) * len(self.saved), "rows") as advance:
            return Labeller(self.model, self.prompts, self.labels).label_each(inputs, advance)

    def measured(self, task: Task, split: Split, ways: dict[Combine, Ensemble], best: int) -> list[Cell]:
        """A cell for each prompt alone, for the best of them, and for each way to combine them."""
        began = time.perf_counter()
        scores = self.scores(split)
        seconds = time.perf_counter() - began
        found = [self._cell(task, split, MEMBER, one, seconds, seed) for seed, one in enumerate(scores)]
        found.append(self._cell(task, split, BEST, scores[best], seconds))
        for way, name in COLUMNS.items():
            found.append(self._cell(task, split, name, combined(scores, ways[way]), seconds))
        return found

    def _cell(
        self, task: Task, split: Split, name: str, scores: Tensor, seconds: float, seed: int | None = None
    ) -> Cell:
        words = self.labels.words
        gold = [str(example.label) for example in split.examples]
        predicted = [words[place] for place in scores.argmax(-1).tolist()]
        value, details = measured(task.metric, gold, predicted, words)
        cards = [one.card for one in self.saved]
        alone = seed is not None or name == BEST
        return Cell(
            backbone=self.model.name,
            method=name,
            train_task=cards[0].task.name,
            eval_task=task.name,
            metric=task.metric,
            value=value,
            n=len(gold),
            seed=seed,
            trained_parameters=cards[0].trained_parameters if alone else sum(card.trained_parameters for card in cards),
            seconds=seconds,
            details=details | {"prompts": len(self.saved)},
        )

    def _pieces(self, examples: Sequence[Example]) -> list[list[int]]:
        ids, cut = render(self.model.tokenize, examples, self.limit, self.question)
        if any(cut):
            say(f"{sum(cut):,} of {len(ids):,} inputs were cut to {self.limit} tokens")
        return ids


def stored_bytes(folder: str | Path) -> int:
    """What an ensemble, or a prompt, takes on disk."""
    return (load_prompt(folder).folder / "prompt.safetensors").stat().st_size

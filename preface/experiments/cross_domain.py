"""Source A's experiment: prompts trained on one domain, tested on others, beside what a user would pick instead."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from preface.backbones.t5 import DEFAULT, Backbone, load_backbone
from preface.baselines.tfidf import fit_tfidf, trained_parameters
from preface.errors import UserError
from preface.experiments.report import write_report
from preface.labelling.evaluate import INSTRUCTION, ZERO_SHOT, evaluate, metric
from preface.methods import Method, method_named
from preface.options import validated
from preface.records.results import Cell, read_cells, write_atomically, write_cells
from preface.records.run import RECORD, Run
from preface.tasks import Task, load_split, load_task
from preface.terminal.progress import say
from preface.tuning.recipe import recipe_from
from preface.tuning.train import load_training, train

RECIPES = Path(__file__).parent / "recipes"
TFIDF = "tf-idf"
SPEC = "experiment.yaml"


class Search(BaseModel):
    """A short training of every rate, to choose one by development score before the long training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(ge=1)
    seeds: int = Field(1, ge=1)

    @property
    def recipe(self) -> dict[str, Any]:
        """A look at the development split after each third is enough to choose by."""
        return {"steps": self.steps, "seeds": self.seeds, "evaluate_every": -(-self.steps // 3)}


class Column(BaseModel):
    """A method to be trained, with what differs from its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    name: str = ""
    """As in the table's head; default: the method's."""
    options: dict[str, Any] = {}
    """Fields of the method: `length`, `sites`, `init`, …"""
    learning_rates: tuple[float, ...] | None = None
    """Default: those the method names."""
    recipe: dict[str, Any] = {}
    """Fields of `preface.tuning.recipe.Recipe` for this method alone."""

    @property
    def label(self) -> str:
        return self.name or self.method

    def build(self) -> Method:
        return validated(method_named(self.method), self.options)


class ZeroShot(BaseModel):
    """The frozen model alone, asked in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    backbone: str | None = None
    """Default: the experiment's."""
    instruction: str = INSTRUCTION


class Experiment(BaseModel):
    """The whole matrix, as a YAML in `recipes/` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    backbone: str = DEFAULT
    train_task: str
    eval_tasks: tuple[str, ...] = Field(min_length=1)
    columns: tuple[Column, ...]
    seeds: int = Field(3, ge=1)
    recipe: dict[str, Any] = {}
    """Fields of `preface.tuning.recipe.Recipe` for all methods."""
    search: Search | None = None
    """None: every rate is trained in full with every seed."""
    zero_shot: ZeroShot | None = ZeroShot()
    tfidf: bool = True
    train_rows: int | None = None
    """Rows trained on; None: all."""
    notes: tuple[str, ...] = ()
    """What was chosen where the source leaves a thing open, and why."""
    next: tuple[str, ...] = ()
    """Commands to try next."""

    @field_validator("columns")
    @classmethod
    def _names_differ(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        labels = [column.label for column in columns]
        if len({*labels, ZERO_SHOT, TFIDF}) < len(labels) + 2:
            raise ValueError(f"give each column a name of its own, other than {ZERO_SHOT} and {TFIDF}")
        return columns

    @field_validator("recipe")
    @classmethod
    def _no_members(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        if recipe.keys() & {"seeds", "learning_rates"}:
            raise ValueError("seeds and learning_rates have fields of their own")
        return recipe

    def measured(self) -> dict[str, Any]:
        """All that decides a number: not the title, the notes, or what to try next."""
        return self.model_dump(mode="json", exclude={"title", "notes", "next"})


def load_experiment(name_or_path: str | Path) -> Experiment:
    """A shipped recipe by name, or a YAML by path. Raises UserError."""
    path = RECIPES / f"{name_or_path}.yaml"
    if not path.exists():
        path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise UserError(f"recipe {name_or_path}: neither shipped ({shipped}) nor a file")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: a recipe is a mapping of fields to values")
    return validated(Experiment, fields)


def compare_cross_domain(
    recipe: Experiment | str | Path = "nano",
    *,
    out: str | Path,
    backbone: Backbone | str | None = None,
    data: str | Path | None = None,
    task: str | None = None,
    on: Sequence[str] = (),
    seeds: int | None = None,
    steps: int | None = None,
    train_rows: int | None = None,
    command: str | None = None,
) -> list[Cell]:
    """Train every method on one task, evaluate on all, and write table, plot, report and `results.json` into `out`.

    Cells already in `out` are not measured again, and an interrupted training goes on where it stopped: the same
    call continues the experiment.

    Args:
        recipe: an experiment, a shipped recipe's name, or a YAML.
        out: the experiment's folder.
        backbone, task, on, seeds, steps, train_rows: take the place of what the recipe says.
        data: folder with the data files of shipped tasks.
        command: how this was called, for the report.

    Raises:
        UserError: what the user can put right; `Interrupted` after Ctrl-C.
    """
    experiment = recipe if isinstance(recipe, Experiment) else load_experiment(recipe)
    changes: dict[str, Any] = {}
    if backbone is not None:
        changes["backbone"] = backbone.name if isinstance(backbone, Backbone) else backbone
    changes |= {"train_task": task} if task else {}
    changes |= {"eval_tasks": tuple(on)} if on else {}
    changes |= {"seeds": seeds} if seeds else {}
    changes |= {"train_rows": train_rows} if train_rows else {}
    if steps:
        changes["recipe"] = experiment.recipe | {"steps": steps}
        if experiment.search is not None:
            changes["search"] = experiment.search.model_copy(update={"steps": min(steps, experiment.search.steps)})
    experiment = experiment.model_copy(update=changes)
    matrix = _Matrix(experiment, Path(out), data, backbone if isinstance(backbone, Backbone) else None)
    cells = matrix.run()
    commands = [command or f"preface compare cross-domain --out {out}"]
    notes = (*experiment.notes, matrix.majorities(), *seen(cells))
    write_report(cells, Path(out), experiment.title, notes=notes, commands=commands)
    return cells


def seen(cells: Sequence[Cell]) -> list[str]:
    """A line for each backbone that was trained on labelled examples: its domains are not as new as they look."""
    saw = {cell.backbone: cell.details.get("backbone_saw", []) for cell in cells}
    return [
        f"{backbone} was itself trained on labelled examples of {', '.join(tasks)}: these are no new domains for it, "
        "and what it does without a prompt is an instruction-tuned model's work."
        for backbone, tasks in saw.items()
        if tasks
    ]


class _Matrix:
    """The cells of one experiment, each measured once."""

    def __init__(self, experiment: Experiment, out: Path, data: str | Path | None, backbone: Backbone | None) -> None:
        self.experiment, self.out, self.data, self._backbone = experiment, out, data, backbone
        self.results = out / "results.json"
        # everything that can be wrong is looked at before anything is trained: a slip should not cost an hour
        for column in experiment.columns:
            method = column.build()
            recipe_from({**experiment.recipe, **column.recipe}, column.learning_rates or method.rates)
        self.train_task = load_task(experiment.train_task)
        self.eval_tasks = [load_task(name) for name in experiment.eval_tasks]
        for eval_task in self.eval_tasks:
            if not set(eval_task.label_words) <= set(self.train_task.label_words):
                raise UserError(
                    f"{eval_task.name}: its labels ({', '.join(eval_task.label_words)}) are not those of "
                    f"{self.train_task.name} ({', '.join(self.train_task.label_words)})"
                )
        self.tests = {task.name: load_split(task, "test", data=data) for task in self.eval_tasks}
        spec = out / SPEC
        if spec.exists() and load_experiment(spec).measured() != experiment.measured():
            raise UserError(f"{out}: holds another experiment (see {spec}); give another --out, or remove it")
        write_atomically(spec, yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        self.cells = read_cells(self.results)

    @property
    def backbone(self) -> Backbone:
        """Loaded when first needed: a finished experiment is reported without it."""
        if self._backbone is None:
            self._backbone = load_backbone(self.experiment.backbone)
        return self._backbone

    def run(self) -> list[Cell]:
        experiment = self.experiment
        if experiment.zero_shot is not None:
            self._fill(ZERO_SHOT, self._zero_shot)
        for column in experiment.columns:
            self._fill(column.label, partial(self._trained, column, cache(partial(self._run_of, column))))
        if experiment.tfidf:
            self._fill(TFIDF, self._tfidf)
        order = {task.name: place for place, task in enumerate(self.eval_tasks)}
        return sorted(self.cells, key=lambda cell: order[cell.eval_task])

    def majorities(self) -> str:
        """What a constant answer would score: a number below it is no achievement."""
        shares = []
        for task in (task for task in self.eval_tasks if task.metric == "accuracy"):
            gold = Counter(example.label for example in self.tests[task.name].examples)
            shares.append(f"{task.name} {100 * max(gold.values()) / gold.total():.1f}")
        return f"Always naming the commonest label would score: {', '.join(shares)}."

    def _fill(self, method: str, measure: Callable[[list[Task]], list[Cell]]) -> None:
        """Measure the tasks for which the method has no cell yet, and keep what was measured at once."""
        done = {cell.eval_task for cell in self.cells if cell.method == method}
        for task in self.eval_tasks:
            if task.name not in done:
                self.cells += measure([task])
                write_cells(self.results, self.cells)

    def _zero_shot(self, tasks: list[Task]) -> list[Cell]:
        zero_shot = self.experiment.zero_shot
        assert zero_shot is not None
        return evaluate(None, tasks, backbone=self._asked_in_words, instruction=zero_shot.instruction, data=self.data)

    @cached_property
    def _asked_in_words(self) -> Backbone:
        named = self.experiment.zero_shot.backbone if self.experiment.zero_shot else None
        return self.backbone if named is None else load_backbone(named)

    def _trained(self, column: Column, run: Callable[[], Run], tasks: list[Task]) -> list[Cell]:
        cells = evaluate(run(), tasks, backbone=self.backbone, data=self.data)
        return [replace(cell, method=column.label) for cell in cells]

    def _run_of(self, column: Column) -> Run:
        """The column's long training, after the search for its rate."""
        experiment, method = self.experiment, column.build()
        rates = column.learning_rates or method.rates
        common: dict[str, Any] = {**experiment.recipe, **column.recipe}
        if experiment.search is not None and len(rates) > 1:
            folder = self.out / "search" / column.label
            search = self._run(folder, method, {**common, "learning_rates": rates, **experiment.search.recipe})
            rates = (search.best_rate[0].learning_rate,)
            say(f"{column.label}: learning rate {rates[0]:g} did best on the development split")
        folder = self.out / "train" / column.label
        return self._run(folder, method, {**common, "learning_rates": rates, "seeds": experiment.seeds})

    def _run(self, folder: Path, method: Method, recipe: Mapping[str, Any]) -> Run:
        """The run in that folder: as it is, gone on with, or begun."""
        if (folder / RECORD).exists():
            run = Run(folder, self.backbone)
            return run if "result" in run.record else train(self.backbone, resume=folder)
        return train(
            self.backbone,
            self.train_task,
            method,
            data=self.data,
            train_rows=self.experiment.train_rows,
            out=folder,
            **recipe,
        )

    def _tfidf(self, tasks: list[Task]) -> list[Cell]:
        model, seconds = self._fitted
        cells = []
        for task in tasks:
            examples = self.tests[task.name].examples
            gold = [str(example.label) for example in examples]
            began = time.perf_counter()
            predicted = [str(label) for label in model.predict([example.text for example in examples])]
            cells.append(
                Cell(
                    backbone="none",
                    method=TFIDF,
                    train_task=self.train_task.name,
                    eval_task=task.name,
                    metric=task.metric,
                    value=metric(task.metric, gold, predicted),
                    n=len(gold),
                    seed=None,
                    trained_parameters=trained_parameters(model),
                    seconds=time.perf_counter() - began,
                    details={"train_seconds": seconds},
                )
            )
        return cells

    @cached_property
    def _fitted(self) -> tuple[Any, float]:
        """The baseline on the very rows that the prompts see, and the seconds it took."""
        training = load_training(self.train_task, self.data, rows=self.experiment.train_rows).examples
        development = load_split(self.train_task, "validation", data=self.data).examples
        began = time.perf_counter()
        model = fit_tfidf(
            [example.text for example in training],
            [str(example.label) for example in training],
            [example.text for example in development],
            [str(example.label) for example in development],
        )
        return model, time.perf_counter() - began

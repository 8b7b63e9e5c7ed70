"""A text classifier for scikit-learn: a prompt of a frozen backbone behind `fit` and `predict`.

It trains as `preface train` does, from texts in memory, and leaves its prompt in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import (
    default_backbone,
    device_named,
    dtype_name,
    dtype_named,
    load_backbone,
    resolved,
)
from preface.errors import UserError
from preface.labelling.fit import backbone_of, loaded
from preface.labelling.free_text import wanted
from preface.labelling.labeller import Labeller
from preface.methods import Method, PrefixTuning, method_named
from preface.options import validated
from preface.records.card import PromptCard, origin_of, save_prompt
from preface.records.results import installed_versions
from preface.tasks import Example, Row, Split, Task, render
from preface.tasks.find import Part
from preface.tasks.load import INPUT_NAMES, LABEL_NAME, FileOptions
from preface.tasks.read import is_blank
from preface.tasks.registry import task_of
from preface.tasks.split import drawn
from preface.tasks.task import BEST, CUE, WHOLE, example_of, label_value
from preface.terminal.interrupt import Interrupted
from preface.tuning.finish import Outcome, best_of, warn_of
from preface.tuning.folds import CrossValidation, OnAllRows
from preface.tuning.population import Population
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.rows import Rows
from preface.tuning.train import trained

NAME = "own-data"
"""What the task is called in a saved prompt."""
PART = "all"
MOST_DEVELOPMENT = 1_000


class InputError(UserError, ValueError):
    """A mistake in `X` or `y`; also a ValueError, which scikit-learn's tools look for."""


class PromptClassifier(ClassifierMixin, BaseEstimator):
    """Classify texts with a soft prompt of a frozen language model.

    `X` is a list, array or Series of texts; where a text has several parts, a list of dictionaries or a DataFrame.
    `y` holds labels of any one kind: text, whole numbers, booleans.

    Args:
        backbone: a name, folder or GGUF file for `load_backbone`, which stays loaded for later fits and clones; or one
            that is loaded. Default: `default_backbone`.
        method: a method, such as `PrefixTuning(length=10)`, or its name. Default: a prefix of 20.
        learning_rates: one, or several that are trained side by side, of which development rows choose. Default: the
            method's own three.
        epochs, steps, batch_size, class_weights, max_input_tokens: as `preface.tuning.recipe.Recipe` has them, with its
            defaults where they are None.
        development: the share of the rows, at most 1,000, that are not trained on but choose rate and step.
        folds: set no rows aside: so many folds choose rate and steps, then all rows train. For few rows.
        label_words: the word that the model answers for each class, `{0: "negative", 1: "positive"}`. Default: the
            classes as they are.
        cue: what stands between a text and its answer, for decoder-only models; `chat`: the model's own chat template.
        wording: what stands around each text, such as `sentiment: {text}`.
        input, template: the columns of `X` with the text, and how it is made of them: `{premise} … {hypothesis}`.
        dtype, device: as for `load_backbone`.
        random_state: of the development rows, the prompt's beginning and the order of rows. With None each fit draws
            other development rows.

    Attributes:
        classes_: the labels, sorted, `[C]`.
        prompts_: the prompt, `Prompts` of one.
        card_: what it was made for and how it did on development rows (`card_.member`).
    """

    def __init__(
        self,
        backbone: Backbone | str | Path | None = None,
        method: Method | str | None = None,
        *,
        learning_rates: float | Sequence[float] | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        class_weights: Literal["none", "balanced"] | None = None,
        development: float = 0.1,
        folds: int | None = None,
        label_words: Mapping[Any, str] | None = None,
        cue: str | None = None,
        wording: str | None = None,
        input: str | Sequence[str] | None = None,
        template: str | None = None,
        max_input_tokens: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.backbone = backbone
        self.method = method
        self.learning_rates = learning_rates
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.class_weights = class_weights
        self.development = development
        self.folds = folds
        self.label_words = label_words
        self.cue = cue
        self.wording = wording
        self.input = input
        self.template = template
        self.max_input_tokens = max_input_tokens
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 — scikit-learn's name
        """Train a prompt on N texts and their labels `[N]`.

        Raises UserError for what the user can put right, as ValueError where it is in `X` or `y`.
        """
        targets = _targets(y)
        classes, numbers = np.unique(targets, return_inverse=True)  # [C], [N]
        if len(classes) < 2:
            raise InputError(f"y: only one class, '{classes[0]}'; training needs two or more")
        seed = self._seed()
        task = self._task(classes, seed)
        rows = _rows(X, task)
        check_consistent_length(rows, targets)
        examples = _examples(task, rows, [task.label_words[number] for number in numbers])
        backbone, method, recipe = self._backbone(), self._method(), self._recipe(seed)
        outcome = _trained(backbone, method, recipe, task, examples)
        best = best_of(outcome.members)
        warn_of(outcome.predictions, best, outcome.majority, task.metric)
        self.classes_ = classes
        self.prompts_ = outcome.prompts.select([best.index])
        self.card_ = PromptCard(
            **origin_of(backbone, method.record, task),
            max_input_tokens=recipe.max_input_tokens,
            trained_parameters=outcome.counts.trained,
            member=best,
            versions=installed_versions(),
        )
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The likeliest class of each of N texts, `[N]`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each class, in the order of `classes_`, for N texts, `[N, C]`."""
        check_is_fitted(self, "card_")
        card = self.card_
        backbone = backbone_of(card, known=self._backbone())
        rows = _rows(X, card.task)
        examples = _examples(card.task, rows, [None] * len(rows))
        question = backbone.question(card.task.wording, card.task.cue)
        ids, _ = render(backbone.tokenize, examples, card.max_input_tokens, question)
        inputs = Inputs(backbone, ids, keep=self.prompts_.leaves_reading)  # a search asks many prompts about them
        scores = Labeller(backbone, self.prompts_, wanted(backbone, card.task)).label(inputs)  # [N, C]
        return scores.double().softmax(-1).numpy()  # type: ignore[no-any-return]

    def save(self, folder: str | Path) -> None:
        """Write the prompt, as `preface predict`, `evaluate` and `serve` take it, into a new folder.

        Raises UserError if something is there.
        """
        check_is_fitted(self, "card_")
        folder = Path(folder)
        if folder.exists():
            raise UserError(f"{folder}: is there already; give another folder")
        save_prompt(folder, self.prompts_, self.card_)

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _task(self, classes: np.ndarray, seed: int) -> Task:
        """What the prompt is for, as of a data file: see `preface.tasks.load`."""
        if not 0 < self.development < 1:
            raise UserError(
                f"development: is a share of the rows, more than 0 and less than 1 (got {self.development})"
            )
        given = {"input": self.input, "template": self.template, "cue": self.cue, "wording": self.wording}
        own = validated(FileOptions, given)
        if own.wording == BEST:
            raise UserError("wording best: chooses among a task's instructions, and texts given in Python have none")
        return task_of(
            {
                "name": NAME,
                "description": "own data, given in Python",
                "source": {},
                "fields": {
                    "input": own.input or (INPUT_NAMES[:1] if "text" in own.names else own.names),
                    "label": LABEL_NAME,
                },
                "template": own.template or "{text}",
                "cue": own.cue or CUE,
                "wording": own.wording or WHOLE,
                "labels": self._words(classes),
                "splits": {
                    "train": {"part": PART},
                    "validation": {"part": PART, "share": self.development, "size": MOST_DEVELOPMENT, "seed": seed},
                    "test": {"part": PART, "apart": False},
                },
            },
            type(self).__name__,
        )

    def _words(self, classes: np.ndarray) -> dict[str, str]:
        """The label word of each class, in their order."""
        names = [label_value(name) for name in classes]
        given = dict(zip(names, names, strict=True))
        if self.label_words is not None:
            given = {label_value(name): word for name, word in self.label_words.items()}
        if missing := [name for name in names if name not in given]:
            raise UserError(f"label_words: has no word for the class {missing[0]!r}; give one for each")
        words = {name: given[name] for name in names}
        if len(set(words.values())) < len(names):
            raise UserError(f"label_words: each class needs a word of its own, not {', '.join(words.values())}")
        return words

    def _method(self) -> Method:
        if isinstance(self.method, str):
            return validated(method_named(self.method), {})
        return self.method or PrefixTuning()

    def _recipe(self, seed: int) -> Recipe:
        rates = self.learning_rates
        own = {
            "learning_rates": (rates,) if isinstance(rates, Real) else rates,
            "epochs": self.epochs,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "class_weights": self.class_weights,
            "folds": self.folds,
            "max_input_tokens": self.max_input_tokens,
        }
        # a grid of numpy's numbers is of no type that pydantic knows
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in own.items()}
        given = {name: value for name, value in plain.items() if value is not None}
        return recipe_from({**given, "seeds": (seed,)}, self._method().default_rates)

    def _backbone(self) -> Backbone:
        if isinstance(self.backbone, Backbone):
            return loaded(self.backbone, self.dtype, self.device)
        device = device_named(self.device)
        name = resolved(self.backbone or default_backbone())
        return _kept_loaded(name, dtype_name(dtype_named(self.dtype, device)), str(device))


@lru_cache(maxsize=1)
def _kept_loaded(name: str, dtype: str, device: str) -> Backbone:
    """One backbone stays loaded, so that later fits and clones share it, and what it has read."""
    return load_backbone(name, dtype, device)


def _targets(y: Any) -> np.ndarray:
    """Labels `[N]`. Raises ValueError, in scikit-learn's words, for what cannot be classes."""
    targets = column_or_1d(y, warn=True)
    check_array(targets, ensure_2d=False, dtype=None, input_name="y")
    if blank := [number for number, label in enumerate(targets, 1) if is_blank(label)]:
        raise InputError(f"y row {blank[0]}: is empty; each text needs a label")
    if len(kinds := {type(label) for label in targets}) > 1:  # which could not be sorted
        raise InputError(f"y: labels are of one kind, not {' and '.join(sorted(kind.__name__ for kind in kinds))}")
    check_classification_targets(targets)
    return targets  # type: ignore[no-any-return]


def _rows(X: Any, task: Task) -> list[Row]:  # noqa: N803
    """Texts, or what has several fields, as rows of the task. Raises InputError."""
    if isinstance(X, str):
        raise InputError("X: is a single text; give a list of texts")
    if hasattr(X, "columns") and hasattr(X, "iloc"):  # a DataFrame, of which a list would be its columns' names
        X = X.to_dict("records")  # noqa: N806
    if not isinstance(X, Iterable):
        raise InputError(f"X: is no list of texts but {type(X).__name__}")
    field, rows = task.text_fields[0], []
    for number, item in enumerate(X, 1):
        if not isinstance(item, str | Mapping):
            raise InputError(f"X row {number}: is no text but {type(item).__name__}; give texts, or dictionaries")
        rows.append(Row("X", number, {field: str(item)} if isinstance(item, str) else dict(item), "row"))
    if not rows:
        raise InputError("X: has 0 rows, while a minimum of 1 is required; give texts")
    return rows


def _examples(task: Task, rows: Sequence[Row], words: Sequence[str | None]) -> list[Example]:
    """Of rows and their label words, if they have any. Raises InputError."""
    try:
        return [example_of(task, row, word) for row, word in zip(rows, words, strict=True)]
    except UserError as error:
        raise InputError(str(error)) from error


def _trained(backbone: Backbone, method: Method, recipe: Recipe, task: Task, examples: list[Example]) -> Outcome:
    """As `preface train` would have trained on a file of these rows; nothing stays on disk."""
    if recipe.folds is None:
        training, development = (drawn(task, name, lambda part: Part(examples)) for name in ("train", "validation"))
    else:
        training, development = (Split(task.name, name, examples, [], []) for name in ("train", "validation"))
    asked, most = wanted(backbone, task), recipe.max_input_tokens
    rows = Rows.of(backbone, asked, training, development, most, task.cue, task.wording)
    recipe = recipe.resolve(rows.steps_an_epoch(recipe))
    kind = Population if recipe.folds is None else CrossValidation
    population = kind(backbone, method, recipe, rows, task.metric)
    second = partial(OnAllRows, backbone, method, recipe, rows, task.metric)
    try:
        with TemporaryDirectory(prefix="preface-") as folder:
            return trained(Path(folder), population, second, "fit")
    except Interrupted as stopped:  # which a search would take for a fit that failed
        raise KeyboardInterrupt from stopped

"""`PromptClassifier`, held to scikit-learn's own checks and to `preface train`."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import preface
from preface import classifier
from preface.backbones.base import Backbone
from preface.backbones.t5 import T5Backbone
from preface.classifier import PromptClassifier
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.tasks import load_split
from preface.tuning import loop

METHOD = PrefixTuning(length=2, sites=("decoder",))
OPTIONS: dict[str, Any] = {"method": METHOD, "learning_rates": 0.03, "steps": 2, "batch_size": 4, "dtype": "float32"}
X = [f"the {('good', 'bad')[i % 2]} thing number {i} {'and more ' * (i % 5)}".strip() for i in range(60)]
Y = [("yes", "no")[i % 2] for i in range(60)]


@pytest.fixture(autouse=True)
def _own_backbones() -> Iterator[None]:
    """What one test has loaded and read is none of the next one's."""
    classifier._kept_loaded.cache_clear()
    yield
    classifier._kept_loaded.cache_clear()


@pytest.fixture
def tiny_classifier(checkpoint_folder: Path) -> PromptClassifier:
    return PromptClassifier(checkpoint_folder, **OPTIONS)


# scikit-learn's checks


class OfNumbers(PromptClassifier):
    """The classifier on the tables of numbers that scikit-learn's checks bring: each row is read as a text."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True  # else there are no checks
        return tags

    def fit(self, X: Any, y: Any) -> OfNumbers:  # noqa: N803
        return super().fit(_as_texts(X), y)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        return super().predict_proba(_as_texts(X))


def _as_texts(table: Any) -> list[str]:
    return [" ".join(f"{number:.1f}" for number in row) for row in np.asarray(table)]


APPLY = {
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_positive_only_tag_during_fit",
    "check_pipeline_consistency",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_classifier_data_not_an_array",
    "check_classifiers_one_label",
    "check_classifiers_classes",
    "check_classifiers_regression_target",
    "check_supervised_y_no_nan",
    "check_supervised_y_2d",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_requires_y_none",
}
NUMBERS = "is about tables of numbers, which are not taken"
LAST_BITS = "wants probabilities equal to 1e-7, and a model's last bits in float32 depend on what stands in a batch"
DO_NOT_APPLY = {
    "check_n_features_in_after_fitting": NUMBERS,
    "check_n_features_in": NUMBERS,
    "check_estimators_dtypes": NUMBERS,
    "check_complex_data": NUMBERS,
    "check_dtype_object": NUMBERS,
    "check_estimators_empty_data_messages": f"its texts are refused, in other words; {NUMBERS}",
    "check_estimators_nan_inf": NUMBERS,
    "check_estimator_sparse_tag": NUMBERS,
    "check_estimator_sparse_array": NUMBERS,
    "check_estimator_sparse_matrix": NUMBERS,
    "check_array_api_input": NUMBERS,
    "check_fit2d_1sample": NUMBERS,
    "check_fit2d_1feature": NUMBERS,
    "check_fit1d": "wants a list without columns refused, and that is what texts are",
    "check_fit2d_predict1d": "wants a list without columns refused, and that is what texts are",
    "check_classifiers_train": "wants clusters of points told apart; what a prompt learns is tested on texts",
    "check_methods_sample_order_invariance": LAST_BITS,
    "check_methods_subset_invariance": LAST_BITS,
    "check_classifiers_one_label_sample_weights": "there are no sample weights",
    "check_estimators_partial_fit_n_features": "there is no partial_fit",
    "check_non_transformer_estimators_n_iter": "there is no max_iter",
    "check_decision_proba_consistency": "there is no decision_function",
}


def _name(check: Any) -> str:
    return check.func.__name__ if hasattr(check, "func") else check.__name__


def _checks() -> list[tuple[PromptClassifier, Any]]:
    made = OfNumbers(**OPTIONS)
    return [(estimator, check) for estimator, check in estimator_checks_generator(made, legacy=True)]


def test_every_check_of_scikit_learn_is_accounted_for() -> None:
    assert {_name(check) for _, check in _checks()} <= APPLY | DO_NOT_APPLY.keys()
    assert not APPLY & DO_NOT_APPLY.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", [check for _, check in _checks() if _name(check) in APPLY], ids=_name)
def test_scikit_learn_s_own_check(check: Any, checkpoint_folder: Path) -> None:
    check(OfNumbers(checkpoint_folder, **OPTIONS))


def test_it_says_that_it_takes_texts() -> None:
    tags = PromptClassifier().__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "classifier"


# training


@pytest.mark.parametrize("folds", [None, 3])
def test_the_prompt_is_that_of_preface_train(
    folds: int | None, tiny_classifier: PromptClassifier, tiny: Backbone, tmp_path: Path
) -> None:
    pd.DataFrame({"text": X, "label": Y}).to_csv(tmp_path / "rows.csv", index=False)
    own = {"learning_rates": (0.01, 0.1), "steps": 6, "batch_size": 4}
    run = preface.train(tiny, tmp_path / "rows.csv", METHOD, folds=folds, out=tmp_path / "run", **own)
    fitted = tiny_classifier.set_params(**own, folds=folds).fit(X, Y)
    assert fitted.card_.member.learning_rate == run.best.learning_rate
    if folds is None:  # whose rows are in another order than those of a file
        assert fitted.card_.member == run.best
        for name, tensor in run.prompt().prompts.tensors.items():
            torch.testing.assert_close(fitted.prompts_.tensors[name], tensor)


def test_it_is_right_about_most_texts_that_it_has_not_seen(nano: Backbone) -> None:
    films = load_split("film", "train").examples
    texts, labels = [film.text for film in films], [film.label == "positive" for film in films]
    words = {False: "negative", True: "positive"}
    asked = PromptClassifier(nano, METHOD, learning_rates=0.01, steps=10, batch_size=8, label_words=words)
    assert asked.fit(texts[:80], labels[:80]).score(texts[80:160], labels[80:160]) > 0.7


@pytest.mark.parametrize(
    "labels",
    [
        ["pos", "neg"],
        np.array(["pos", "neg"]),
        pd.Series(["pos", "neg"]),
        pd.Series(["pos", "neg"], dtype="category"),
        [7, -1],
        np.array([1, 0], dtype=np.int8),
        [True, False],
        [1.0, 2.0],
    ],
    ids=lambda labels: f"{type(labels).__name__} of {type(labels[0]).__name__}",
)
def test_labels_keep_their_type(labels: Any, tiny_classifier: PromptClassifier) -> None:
    y = [*labels] * 10
    y = type(labels)(y, dtype=labels.dtype) if isinstance(labels, pd.Series) else y
    y = np.array(y, dtype=labels.dtype) if isinstance(labels, np.ndarray) else y
    fitted = tiny_classifier.fit(X[:20], y)
    np.testing.assert_array_equal(fitted.classes_, np.unique(np.asarray(y)))
    assert fitted.classes_.dtype == np.asarray(y).dtype
    assert fitted.predict(X[:5]).dtype == fitted.classes_.dtype
    assert set(fitted.predict(X)) <= set(fitted.classes_)


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda texts: np.array(texts, dtype=object)])
def test_texts_come_in_any_list(kind: Any, tiny_classifier: PromptClassifier) -> None:
    expected = tiny_classifier.fit(X, Y).predict_proba(X[:7])
    np.testing.assert_array_equal(clone(tiny_classifier).fit(kind(X), kind(Y)).predict_proba(kind(X[:7])), expected)


def test_probabilities_are_those_of_each_text_alone(tiny_classifier: PromptClassifier) -> None:
    fitted = tiny_classifier.fit(X, Y)
    together = fitted.predict_proba(X)
    assert together.shape == (60, 2)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    alone = np.concatenate([fitted.predict_proba([text]) for text in X[:9]])
    np.testing.assert_allclose(alone, together[:9], atol=1e-4)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[together.argmax(axis=1)])


def test_label_words_and_cue_stand_in_the_prompt(tiny_classifier: PromptClassifier) -> None:
    tiny_classifier.set_params(label_words={1: "good", 0: "bad", 2: "never seen"}, cue="Verdict:")
    fitted = tiny_classifier.fit(X, [1, 0] * 30)
    assert fitted.card_.label_words == ("bad", "good")
    assert fitted.card_.task.labels == {"0": "bad", "1": "good"}
    assert fitted.card_.task.cue == "Verdict:"


def test_a_wording_stands_around_each_text(checkpoint_folder: Path) -> None:
    worded = PromptClassifier(checkpoint_folder, **OPTIONS, wording="mood: {text}", folds=2).fit(X, Y)
    plain = PromptClassifier(checkpoint_folder, **OPTIONS, folds=2).fit(by_hand := [f"mood: {text}" for text in X], Y)
    np.testing.assert_allclose(worded.predict_proba(X), plain.predict_proba(by_hand), atol=1e-6)
    with pytest.raises(UserError, match="wording best"):
        PromptClassifier(checkpoint_folder, wording="best").fit(X, Y)


@pytest.mark.parametrize("as_frame", [True, False])
def test_a_text_may_have_several_columns(as_frame: bool, checkpoint_folder: Path) -> None:
    frame = pd.DataFrame({"first": X, "second": X[::-1], "other": range(60)})
    pairs = frame if as_frame else frame.to_dict("records")
    by_template = PromptClassifier(checkpoint_folder, **OPTIONS, template="{first} … {second}")
    texts = PromptClassifier(checkpoint_folder, **OPTIONS)
    expected = texts.fit(by_hand := [f"{a} … {b}" for a, b in zip(X, X[::-1], strict=True)], Y).predict_proba(by_hand)
    np.testing.assert_allclose(by_template.fit(pairs, Y).predict_proba(pairs), expected, atol=1e-6)
    joined = PromptClassifier(checkpoint_folder, **OPTIONS, input=["first", "second"]).fit(pairs, Y)
    assert joined.card_.task.fields.input == ("first", "second")
    assert len(cross_val_score(joined, pairs, Y, cv=2)) == 2


def test_the_random_state_decides(tiny_classifier: PromptClassifier) -> None:
    def proba(state: Any) -> np.ndarray:
        return tiny_classifier.set_params(random_state=state).fit(X, Y).predict_proba(X)

    np.testing.assert_array_equal(proba(3), proba(np.int64(3)))
    np.testing.assert_array_equal(proba(np.random.RandomState(3)), proba(np.random.RandomState(3)))
    assert not np.array_equal(proba(3), proba(4))


# within scikit-learn


def test_a_search_reads_each_text_once_however_many_rates_it_tries(
    tiny_classifier: PromptClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, whole = [0], T5Backbone.read

    def counted(self: T5Backbone, input_ids: Any, *rest: Any, **more: Any) -> Any:
        read[0] += len(input_ids)
        return whole(self, input_ids, *rest, **more)

    monkeypatch.setattr(T5Backbone, "read", counted)
    tiny_classifier.set_params(epochs=1.5, steps=None)
    rates = np.array([0.01, 0.1])
    search = GridSearchCV(tiny_classifier, {"learning_rates": rates}, cv=2, refit=False, error_score="raise").fit(X, Y)
    assert search.best_params_["learning_rates"] in rates
    assert read[0] == 2 * len(X)  # once a fold: for training, for development, or as test rows


@pytest.mark.parametrize("given_loaded", [True, False])
def test_clones_share_one_backbone(
    given_loaded: bool, tiny_float32: Backbone, tiny_classifier: PromptClassifier
) -> None:
    if given_loaded:
        tiny_classifier.set_params(backbone=tiny_float32)
    assert clone(tiny_classifier)._backbone() is tiny_classifier._backbone()


def test_cross_validation_and_a_pipeline(tiny_classifier: PromptClassifier) -> None:
    cleaned = make_pipeline(FunctionTransformer(lambda texts: [text.upper() for text in texts]), tiny_classifier)
    scores = cross_val_score(cleaned, X, Y, cv=2, error_score="raise")
    upper = cross_val_score(tiny_classifier, [text.upper() for text in X], Y, cv=2)
    np.testing.assert_array_equal(scores, upper)
    grid = {"promptclassifier__method": [PrefixTuning(length=length, sites=("decoder",)) for length in (1, 3)]}
    search = GridSearchCV(cleaned, grid, cv=2, error_score="raise").fit(X, Y)
    assert search.best_estimator_[-1].card_.method.config["length"] == search.best_params_[next(iter(grid))].length


def test_a_pickle_holds_the_prompt_and_not_the_backbone(tiny_classifier: PromptClassifier) -> None:
    fitted = tiny_classifier.fit(X, Y)
    blob = pickle.dumps(fitted)
    assert len(blob) < 50_000
    np.testing.assert_array_equal(pickle.loads(blob).predict_proba(X), fitted.predict_proba(X))


# on disk


def test_a_fit_leaves_nothing_behind(
    tiny_classifier: PromptClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tiny_classifier.fit(X, Y)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_prompt_is_one_like_others(tiny_classifier: PromptClassifier, tmp_path: Path) -> None:
    fitted = tiny_classifier.set_params(label_words={1: "good", 0: "bad"}).fit(X, [1, 0] * 30)
    fitted.save(tmp_path / "saved")
    lines = list(preface.predict(tmp_path / "saved", X, dtype="float32"))
    assert [line["original"] for line in lines] == list(map(str, fitted.predict(X)))
    given = [[line["probabilities"][word] for word in ("bad", "good")] for line in lines]
    np.testing.assert_allclose(given, fitted.predict_proba(X), atol=1e-4)
    pd.DataFrame({"text": X, "label": [1, 0] * 30}).to_csv(tmp_path / "rows.csv", index=False)
    (cell,) = preface.evaluate(tmp_path / "saved", on=[str(tmp_path / "rows.csv")], dtype="float32")
    assert cell.value == fitted.score(X, [1, 0] * 30)
    with pytest.raises(UserError, match="given in Python"):
        preface.evaluate(tmp_path / "saved", on=[fitted.card_.task], dtype="float32")


def test_no_folder_is_written_over(tiny_classifier: PromptClassifier, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        tiny_classifier.save(tmp_path / "saved")
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is there already"):
        tiny_classifier.fit(X, Y).save(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


# mistakes


@pytest.mark.parametrize(
    ("texts", "labels", "says"),
    [
        ("one text", ["a", "b"], "X: is a single text"),
        (3, ["a", "b"], "X: is no list of texts but int"),
        ([], ["a", "b"], "X: has 0 rows"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        ([*X[:-1], " "], Y, "X row 60: the field 'text' is empty"),
        ([*X[:-1], None], Y, "X row 60: is no text but NoneType"),
        (np.zeros((60, 2)), Y, "X row 1: is no text but ndarray"),
        ([{"body": text} for text in X], Y, "X row 1: has no field 'text'; its fields are 'body'"),
        (X, ["same"] * 60, "y: only one class, 'same'"),
        (X, [0.5, 1.25] * 30, "Unknown label type: continuous"),
        (X, ["a", None] * 30, "y row 2: is empty"),
        (X, ["a", ""] * 30, "y row 2: is empty"),
        (X, [1.0, float("nan")] * 30, "Input y contains NaN"),
        (X, np.array(["a", 1] * 30, dtype=object), "y: labels are of one kind, not int and str"),
    ],
)
def test_mistakes_in_the_data(texts: Any, labels: Any, says: str, tiny_classifier: PromptClassifier) -> None:
    with pytest.raises(ValueError, match=says):
        tiny_classifier.fit(texts, labels)
    assert not hasattr(tiny_classifier, "classes_")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"method": "magic"}, "method magic: unknown"),
        ({"learning_rates": -1.0}, "learning rates are positive"),
        ({"steps": 0}, "steps: "),
        ({"development": 1.0}, "development: is a share"),
        ({"folds": 100}, "folds 100: there are 60 rows"),
        ({"label_words": {"yes": "yes"}}, "has no word for the class 'no'"),
        ({"label_words": {"yes": "same", "no": "same"}}, "a word of its own"),
        ({"template": "{text"}, "template"),
        ({"backbone": "/nowhere"}, "neither embedded"),
    ],
)
def test_mistakes_in_the_parameters(parameters: Any, says: str, tiny_classifier: PromptClassifier) -> None:
    with pytest.raises(UserError, match=says):
        tiny_classifier.set_params(**parameters).fit(X, Y)


def test_too_few_rows_for_development_are_named(tiny_classifier: PromptClassifier) -> None:
    with pytest.raises(UserError, match="no rows are left for validation"):
        tiny_classifier.fit(X[:2], Y[:2])
    assert set(tiny_classifier.set_params(folds=2).fit(X[:4], Y[:4]).predict(X)) <= {"yes", "no"}


def test_another_backbone_than_the_prompt_s_is_refused(
    tiny_classifier: PromptClassifier, checkpoints: dict[str, Path]
) -> None:
    fitted = tiny_classifier.fit(X, Y)
    with pytest.raises(UserError, match=r"other weights|does not fit"):
        fitted.set_params(backbone=checkpoints["t5-v1.0"]).predict(X)


def test_ctrl_c_stops_a_search_and_not_one_fit(
    tiny_classifier: PromptClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def pressed() -> Iterator[Any]:
        yield lambda: True

    monkeypatch.setattr(loop, "stop_requested", pressed)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(tiny_classifier, X, Y, cv=2)

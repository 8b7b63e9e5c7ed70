"""Options are made from configuration models: written once, understood in any order, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.main import get_command

import preface
from preface import cli
from preface.cli.app import app
from preface.cli.options import SPELLINGS, arguments, expand, given_fields
from preface.errors import UserError
from preface.labelling.options import EvaluateOptions
from preface.methods import METHODS
from preface.options import divided, validated
from preface.pretraining.architecture import Architecture
from preface.pretraining.settings import Settings
from preface.tasks.options import DataOptions
from preface.tuning.recipe import Recipe, recipe_from

VERBS = ("train", "evaluate", "predict", "tasks", "methods", "bench", "tokenize", "pretrain", "adapt")


def parameters(verb: str) -> list[Any]:
    return get_command(app).commands[verb].complete().params  # type: ignore[attr-defined]


def options(verb: str) -> dict[str, Any]:
    return {name: parameter for parameter in parameters(verb) for name in parameter.opts}


MANY = sorted(name for name, parameter in options("train").items() if (parameter.metavar or "").endswith("…"))
values = st.lists(st.sampled_from(["1e-3", "0.1", "a=b", "-1=b", "x"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("verb", "model"),
    [
        *(("train", model) for model in (Recipe, DataOptions, *METHODS.values())),
        *(("evaluate", model) for model in (EvaluateOptions, DataOptions)),
        ("bench", DataOptions),
        *(("pretrain", model) for model in (Settings, Architecture)),
        ("adapt", Settings),
    ],
)
def test_every_field_is_an_option_with_its_description(verb: str, model: type[BaseModel]) -> None:
    there = options(verb)
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"
        spelling = SPELLINGS.get(name, (f"--{name.replace('_', '-')}", None))[0].split("/")[0]
        if name == "wording" and verb != "train":  # what is trained knows its own
            assert spelling not in there
            continue
        assert there[spelling].help
        assert name == "seeds" or field.description in there[spelling].help


def test_the_default_backbone_is_the_run_s_where_there_is_one() -> None:
    for verb in ("evaluate", "predict", "ensemble", "neighbors", "export"):
        assert "the run's own, which is the default" in options(verb)["--backbone"].help, verb
    assert "Default: smollm2" in options("train")["--backbone"].help


def test_every_option_has_a_help_text() -> None:
    for verb in VERBS:
        assert all(parameter.help for parameter in parameters(verb)), verb


@given(st.sampled_from(MANY), values, st.lists(st.sampled_from(["--json", "--out", "run"]), max_size=3))
def test_several_values_after_one_option(option: str, several: list[str], rest: list[str]) -> None:
    rest = ["--steps", "3", *rest]
    expected = [f"{option}={value}" for value in several]
    known = parameters("train")
    assert expand([option, *several, *rest], known) == expected + rest
    assert expand([*(part for value in several for part in (option, value)), *rest], known) == expected + rest


@pytest.mark.parametrize("rest", [[], ["--steps", "3"], ["--label-words", "0=a"]])
def test_an_option_of_several_values_without_one_is_not_dropped(rest: list[str]) -> None:
    with pytest.raises(UserError, match="--learning-rate: needs a value"):
        expand(["--task", "film", "--learning-rate", *rest], parameters("train"))


def test_several_fields_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = parameters("predict")
    both = ["--input=premise", "--input=hypothesis"]
    assert expand(["run", "--input", "premise", "hypothesis"], known) == ["run", *both]
    assert expand(["run", "--input", "premise", "--input", "hypothesis"], known) == ["run", *both]
    Path("new.csv").touch()
    assert expand(["run", "--input", "premise", "hypothesis", "new.csv"], known) == ["run", *both, "new.csv"]


def test_an_address_may_be_left_out() -> None:
    known = parameters("predict")
    assert expand(["run", "big.parquet", "--ray"], known) == ["run", "big.parquet", "--ray="]
    assert expand(["--ray", "--out", "labels"], known) == ["--ray=", "--out", "labels"]
    assert expand(["run", "--ray", "here:6379"], known) == ["run", "--ray", "here:6379"]
    assert expand(["run", "--ray=here:6379"], known) == ["run", "--ray=here:6379"]
    context = get_command(app).commands["predict"].complete().make_context("predict", expand(["run", "--ray"], known))  # type: ignore[attr-defined]
    assert context.params["ray"] == ""


def test_the_same_option_has_the_same_name_in_every_verb() -> None:
    names: dict[str, set[str]] = {}
    for verb in ("train", "evaluate", "predict"):
        for parameter in parameters(verb):
            names.setdefault(parameter.name, set()).update(parameter.opts)
    assert all(len(spelled) == 1 for spelled in names.values())


pairs = st.dictionaries(st.text("ab0 ", min_size=1), st.text("xy ='", min_size=1), min_size=1)
data_options = st.fixed_dictionaries(
    {},
    optional={
        "input": st.lists(st.text("ab c'", min_size=1), min_size=1).map(tuple),
        "label": st.text("ab c'", min_size=1),
        "label_words": pairs,
        "template": st.just("{a} … {b}"),
        "data": st.just(Path("my data")),
        "skip_bad_rows": st.just(True),
    },
)


@settings(deadline=None)
@given(data_options)
def test_options_as_arguments_are_read_as_the_same_options(given_options: dict[str, Any]) -> None:
    written = expand(["--task", "film", *arguments(given_options)], parameters("train"))
    context = get_command(app).commands["train"].complete().make_context("train", written)  # type: ignore[attr-defined]
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}
    read = given_fields(DataOptions.model_fields, values)
    assert validated(DataOptions, read) == validated(DataOptions, given_options)


hostile = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=8),
    st.sampled_from(["nan", "inf", "-1", "0", "1e400", "9" * 30, "a=", "=b", "=", "--", "-", "None", "[]", "\udcff"]),
    st.integers().map(str),
    st.floats().map(str),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(sorted(options("train"))), hostile), max_size=4))
def test_no_command_line_ends_in_a_traceback(given_options: list[tuple[str, str]]) -> None:
    def train(*_: object, **options: Any) -> None:
        own = {name: options.pop(name, None) for name in ("train_rows", "out", "resume", "dtype", "device")}
        assert own["train_rows"] is None or own["train_rows"] > 0
        recipe, data = divided(options, Recipe, DataOptions)
        recipe_from(recipe, (1e-2,))
        validated(DataOptions, data)
        raise UserError("understood")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preface, "train", train)
        patch.setattr(sys, "argv", ["preface", "train", *(part for pair in given_options for part in pair)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == (0 if "--help" in sys.argv else 2)

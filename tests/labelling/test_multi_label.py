"""Several labels a text: against a plain forward pass for each question, and from a data file to an ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import preface
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone
from preface.errors import UserError
from preface.labelling import ensemble as ensembles
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller, predictions_of
from preface.labelling.multi_label import MultiLabel
from preface.methods import PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.methods.warp import Warp
from preface.prompts import Prompts
from preface.records.run import Run
from preface.serving.engine import Engine
from preface.serving.store import Store
from preface.tuning.step import Step

TEXTS = ["the red thing", "is it green, or is it blue?", "what?"]
WORDS = ("red", "green", "not too old", "blue and green", "old")
CUE = "Answer:"


@pytest.fixture(scope="module")
def causal(causal_folder: Path) -> Backbone:
    return load_backbone(causal_folder, dtype="float32", device="cpu")


@pytest.fixture(params=["t5", "causal"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.getfixturevalue("tiny_float32" if request.param == "t5" else "causal")


def plain(backbone: Backbone) -> Any:
    """The same model as Transformers loads it."""
    kind = AutoModelForSeq2SeqLM if backbone.model.config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(backbone.name).eval()


def question(backbone: Backbone, word: str) -> tuple[list[int], list[int]]:
    """What stands before yes and no, and these two pieces."""
    yes, no = backbone.answer_pieces([f"{word}: yes", f"{word}: no"], CUE)
    assert yes[:-2] == no[:-2] if backbone.model.config.is_encoder_decoder else yes[:-1] == no[:-1]
    place = len(yes) - (2 if backbone.model.config.is_encoder_decoder else 1)
    return [*backbone.lead_in(CUE), *yes[:place]], [yes[place], no[place]]


def test_each_question_is_answered_as_if_it_were_asked_alone(backbone: Backbone) -> None:
    model, asked = plain(backbone), MultiLabel.of(backbone, WORDS, CUE)
    ids, _ = backbone.tokenize([backbone.question(text, CUE) for text in TEXTS], 64)
    expected = torch.empty(len(TEXTS), len(WORDS))
    for row, text in enumerate(ids):
        for column, word in enumerate(WORDS):
            begun, answers = question(backbone, word)
            with torch.no_grad():
                if model.config.is_encoder_decoder:
                    given = {"input_ids": torch.tensor([text]), "decoder_input_ids": torch.tensor([begun])}
                    logits = model(**given).logits
                else:
                    logits = model(torch.tensor([[*text, *begun]])).logits
            expected[row, column] = logits[0, -1, answers].softmax(-1)[0]
    for scores in Labeller(backbone, Prompts.bare(2), asked).label_each(Inputs(backbone, ids)):
        assert scores.shape == (len(TEXTS), len(WORDS), 2)
        predictions = predictions_of(scores, asked)
        found = torch.tensor([[*prediction.probabilities.values()] for prediction in predictions])  # type: ignore[union-attr]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for prediction, row in zip(predictions, expected, strict=True):
            right = [word for word, probability in zip(WORDS, row, strict=True) if probability > 0.5]
            assert prediction.label == (", ".join(right) or "(none)")


def test_a_step_s_loss_and_gradient_are_those_of_the_questions(tiny_float32: Backbone) -> None:
    """Two prompts with batches of unlike size, by a plain model that reads embeddings."""
    backbone, labels = tiny_float32, ["red, old", "(none)", "green"]
    module = PromptTuning(length=3, init="random").build(backbone, Initializer.parse("random"), range(2))
    asked, ids = MultiLabel.of(backbone, WORDS, CUE), backbone.tokenize(TEXTS, 64)[0]
    assert asked.gold(labels).tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 1]]
    step, batches = Step(backbone, module, Inputs(backbone, ids), asked.targets(labels), asked=asked), [[0, 2], [1]]
    losses, gradient = step._outputs([0, 1], step._arguments(batches, [0, 1]))

    model, (embeddings,) = plain(backbone), module().tensors.values()
    start = embeddings.detach().clone().requires_grad_()
    expected = []
    for prompt, batch in zip(start, batches, strict=True):
        each = []
        for row in batch:
            read = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids[row]))])
            for column, word in enumerate(WORDS):
                begun, answers = question(backbone, word)
                logits = model(inputs_embeds=read[None], decoder_input_ids=torch.tensor([begun])).logits[0, -1, answers]
                each.append(cross_entropy(logits, asked.gold(labels)[row, column]))
        expected.append(torch.stack(each).mean())
    assert losses is not None
    torch.testing.assert_close(losses, torch.stack(expected).detach(), atol=1e-4, rtol=1e-4)
    (wanted,) = torch.autograd.grad(torch.stack(expected).sum(), start)
    assert gradient is not None
    torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_asked(tiny_float32: Backbone) -> None:
    with pytest.raises(UserError, match="too long to be asked about; give another with --label-words"):
        MultiLabel.of(tiny_float32, ["red", "green " * 70], CUE)
    mixed = [MultiLabel.of(tiny_float32, WORDS, CUE), LabelWords.of(tiny_float32, WORDS, CUE)]
    with pytest.raises(UserError, match="several labels a text answer beside such alone"):
        Labeller(tiny_float32, Prompts.bare(2), mixed)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of which two things may be said, both, or none."""
    lines = []
    for number in range(80):
        good, somewhere = number & 1, number >> 1 & 1
        text = f"the {('bad', 'good')[good]} film, {('about a man', 'in London')[somewhere]} {number // 4}"
        labels = [word for word, there in (("positive", good), ("place", somewhere)) if there]
        lines.append({"text": text, "label": labels})
    path = tmp_path_factory.mktemp("films") / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def run(nano: Backbone, rows: Path) -> Run:
    recipe = {"learning_rates": [0.1], "seeds": 2, "steps": 50, "batch_size": 16, "evaluate_every": 25}
    return preface.train(
        nano, rows, PrefixTuning(length=4, sites=("decoder", "cross")), out=rows.parent / "run", **recipe
    )


def test_a_prompt_learns_several_labels(run: Run, rows: Path) -> None:
    assert run.record.task.multi_label
    assert run.record.task.metric == "micro_f1"
    assert run.best.score > 0.9
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert {line["gold"] for line in lines} > {"place, positive", "(none)"}
    assert all(set(line["probabilities"]) == {"place", "positive"} for line in lines)
    (cell,) = preface.evaluate(run, [rows], prompts="best")
    assert cell.details["metrics"]["micro_f1"] == cell.value > 0.9
    assert [label["name"] for label in cell.details["labels"]] == list(run.record.label_words)


def test_predict_gives_the_labels(run: Run) -> None:
    said = list(preface.predict(run, ["the good film, in London 3", "the bad film, about a man 3"]))
    assert "place" in said[0]["labels"]
    assert said[1]["labels"] == []
    assert all(
        (label in line["labels"]) == (probability > 0.5)
        for line in said
        for label, probability in line["probabilities"].items()
    )


@pytest.mark.parametrize("combine", ["mean", "vote", "weighted"])
def test_an_ensemble_of_several_labels(run: Run, tmp_path: Path, combine: Any) -> None:
    cells = ensembles.ensemble([run], tmp_path / "out", combine=combine)
    name = ensembles.COLUMNS[combine]
    (together,) = [cell for cell in cells if cell.method == name]
    (again,) = preface.evaluate(tmp_path / "out", [run.record.task], backbone=run.backbone)
    assert again.value == pytest.approx(together.value)
    assert together.value > 0.9


def test_labels_between_semicolons_and_words_for_them(nano: Backbone, tmp_path: Path) -> None:
    lines = [f"thing {i},{['1', '2;1', ''][i % 3]}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    words = {"1": "red", "2": "green"}
    run = preface.train(
        nano, tmp_path / "rows.csv", PromptTuning(length=2), out=tmp_path / "run", multi_label=True,
        label_words=words, learning_rates=[0.1], steps=2, folds=2,
    )  # fmt: skip
    (line,) = preface.predict(run, ["thing 4"])
    assert line["original"] == [{"red": "1", "green": "2"}[word] for word in line["labels"]]
    # another file, whose labels are the words, is read as the one trained on
    (tmp_path / "other.csv").write_text("text,label\na thing,green;red\nanother,\n")
    (cell,) = preface.evaluate(run, [tmp_path / "other.csv"])
    assert (cell.n, cell.metric) == (2, "micro_f1")


def test_the_bare_backbone_is_asked_too(nano: Backbone, rows: Path) -> None:
    (cell,) = preface.evaluate(None, [rows], backbone=nano, calibration="batch")
    assert 0 <= cell.value <= 1
    assert cell.details["instruction_chosen_on"].startswith("rows.jsonl, ")


def test_a_server_answers_with_it(run: Run, nano: Backbone) -> None:
    (line,) = preface.predict(run, ["the good film"], backbone=nano)
    with Engine(Store(run.folder.parent, nano)) as engine:
        ((answer,),) = engine.ask([run.folder.name], ["the good film"]).result(60).answers
        with pytest.raises(UserError, match="questions writes no text"):
            engine.write(run.folder.name, "the good film")
    assert answer.labels == tuple(line["labels"])
    assert answer.probabilities == pytest.approx(line["probabilities"], abs=1e-4)


def test_what_is_refused(nano: Backbone, run: Run, rows: Path, tmp_path: Path) -> None:
    out = {"out": tmp_path / "run"}
    with pytest.raises(UserError, match="choose one label, and texts of the task may have several"):
        preface.train(nano, rows, Warp(length=2), **out)
    with pytest.raises(UserError, match="class-weights balanced: a text may have several labels"):
        preface.train(nano, rows, PromptTuning(length=2), class_weights="balanced", **out)
    with pytest.raises(UserError, match=r"texts of rows\.jsonl may have several; give train-rows"):
        preface.train(nano, rows, PromptTuning(length=2), shots=2, **out)
    with pytest.raises(UserError, match=r"mixture is of tasks with one a text"):
        preface.train(nano, f"{rows}+film", PromptTuning(length=2), **out)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"rows\.jsonl may have several labels, those of film have one each"):
        preface.evaluate(run, ["film"])
    with pytest.raises(UserError, match=r"rows\.jsonl asks about each label of a text; give scoring rank"):
        preface.evaluate(run, [rows], scoring="generate")

"""Label vectors: what they score, beside the closed form; trained, saved, evaluated, voted on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import preface
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.errors import UserError
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.methods import PromptTuning
from preface.methods.init import Initializer
from preface.methods.warp import Warp
from preface.prompts import LABELS, stack
from preface.records.card import load_prompt

WORDS = ("yes", "no", "perhaps")


@torch.no_grad()
def test_scores_and_losses_are_of_the_state_where_the_answer_begins(tiny: Backbone) -> None:
    init = Initializer.parse("labels", WORDS)
    prompts = Warp(length=3).build(tiny, init, [0, 1])()
    prompts.tensors[LABELS] = prompts.tensors[LABELS] + torch.randn(2, 3, tiny.width)
    ids, _ = tiny.tokenize(["a text", "another, longer text"], 32)
    found = Labeller(tiny, prompts, LabelWords.of(tiny, WORDS)).label_each(Inputs(tiny, ids))
    rows = torch.tensor([0, 1, 0, 1])
    context = tiny.read(*tiny.pad([ids[0], ids[0], ids[1], ids[1]]), prompts, rows)
    begun = torch.zeros(4, 1, dtype=torch.long)
    states = tiny.answer(context, begun, prompts, rows)[:, 0]  # [4, d]
    logits = torch.einsum("bd,bcd->bc", states, prompts.tensors[LABELS][rows])
    expected = logits.log_softmax(-1).view(2, 2, 3).transpose(0, 1)  # [P, N, C]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    labels = torch.tensor([2, 0, 1, 1])
    losses = tiny.losses(context, begun, labels[:, None], prompts, rows)[:, 0]
    torch.testing.assert_close(losses, cross_entropy(logits, labels, reduction="none"), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_vectors_begin_as_the_words(tiny: Backbone) -> None:
    """The first pieces of label words are told apart as the model's own projection tells them apart."""
    init = Initializer.parse("labels", ("one", "text"))
    words = LabelWords.of(tiny, init.label_words)
    prompts = Warp(length=3).build(tiny, init, [5])()
    ids, _ = tiny.tokenize(["a text", "another, longer text"], 32)
    found = Labeller(tiny, prompts, words).label_each(Inputs(tiny, ids))[0]
    context = tiny.read(*tiny.pad(ids), prompts)
    logits = tiny.logits(context, torch.zeros(2, 1, dtype=torch.long))[:, 0]  # [2, vocabulary]
    firsts = [pieces[0] for pieces in words.pieces]
    torch.testing.assert_close(found, logits[:, firsts].log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_trained_saved_evaluated_and_voted_on(nano: Backbone, tmp_path: Path) -> None:
    recipe = {"learning_rates": [0.03], "seeds": 3, "steps": 30, "batch_size": 16, "evaluate_every": 15}
    run = preface.train(nano, "film", Warp(length=4), out=tmp_path / "run", **recipe)
    assert run.result.trained_parameters == run.result.stored_parameters == 6 * nano.width
    assert run.best.score > 0.6
    saved = load_prompt(run.folder)
    assert set(saved.prompts.tensors) == {"embeddings", LABELS}
    (cell,) = preface.evaluate(run, on=["film"], prompts="best")
    said = [line["label"] for line in preface.predict(run, ["a fine film", "a dull film"])]
    assert set(said) <= {"positive", "negative"}
    rows = [json.loads(line) for line in Path(cell.details["predictions"]).read_text().splitlines()]
    assert sum(row["label"] == row["gold"] for row in rows) / len(rows) == pytest.approx(cell.value)
    cells = preface.ensemble([run], tmp_path / "ensemble", prompts="all")
    assert {cell.method for cell in cells} >= {"majority vote", "mean probability"}
    with pytest.raises(UserError, match="writes no text"):
        preface.evaluate(run, scoring="generate")


def test_no_vectors_for_free_text_and_no_company_of_others(tiny: Backbone) -> None:
    with pytest.raises(UserError, match="warp: has a vector for each label"):
        Warp(length=2).build(tiny, Initializer.parse("vocabulary"), [0])
    init = Initializer.parse("labels", WORDS)
    both = stack([Warp(length=2).build(tiny, init, [0])(), PromptTuning(length=2).build(tiny, init, [0])()])
    with pytest.raises(UserError, match="ask them apart"):
        Labeller(tiny, both, LabelWords.of(tiny, WORDS))

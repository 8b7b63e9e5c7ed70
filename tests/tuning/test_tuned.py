"""Tuning weights: losses and scores beside the frozen backbone's, one step beside torch's own optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone, load_checkpoint
from preface.labelling.free_text import FreeText, answer_losses, wanted
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts
from preface.tasks import load_split, load_task
from preface.tasks.metric import metric
from preface.tasks.task import CUE, SENTINEL
from preface.terminal.interrupt import Interrupted
from preface.tuning import tuned as tuned_module
from preface.tuning.loop import Loop
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Rows
from preface.tuning.tunable import OF_PEFT, Tuning, in_mixed_precision, make_tunable
from preface.tuning.tuned import Tuned, answer_loss, label_scores, written_answers

WORDS = ("yes", "not at all", "no")
TEXTS = ["one more", "it is long and it is not what I came to see", "dull"]
MORE_TEXTS = [*TEXTS, "where was that, and who would know?", "a song of the sea", "three green apples lay there"]


@pytest.fixture(params=["t5", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("checkpoint_folder" if request.param == "t5" else "causal_folder")


def begun(folder: Path, data_file: Path, free_text: bool = False, **recipe) -> Tuned:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, parameters = make_tunable(load_checkpoint(folder, torch.float32)[0], "full")
    task = load_task(data_file, free_text=free_text)
    splits = load_split(task, "train"), load_split(task, "validation")
    rows = Rows.of(backbone, wanted(backbone, task), *splits, 64, task.cue)
    fields = {"learning_rates": (1e-3,), "batch_size": 4, "steps": 6, "evaluate_every": 3} | recipe
    return Tuned("full", model, parameters, rows, Recipe(**fields), task.metric)


def test_an_untuned_model_scores_labels_as_the_frozen_backbone_does(folder: Path) -> None:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, _ = load_checkpoint(folder, torch.float32)
    labels, (ids, _) = LabelWords.of(backbone, WORDS), backbone.tokenize(TEXTS, 64)
    expected = Labeller(backbone, Prompts.bare(), labels).label(Inputs(backbone, ids))
    torch.testing.assert_close(label_scores(model.eval(), ids, labels), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("tuning", ["full", "lora", "adapters"])
def test_mixed_precision_rounds_what_is_multiplied_alone(folder: Path, tuning: Tuning) -> None:
    """Weights, logits and gradients are in float32, and scores those of float32 up to rounding."""
    if tuning in OF_PEFT:
        pytest.importorskip("peft")
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    labels, (ids, _) = LabelWords.of(backbone, WORDS), backbone.tokenize(TEXTS, 64)
    answers = [list(pieces) for pieces in backbone.answer_pieces(WORDS, CUE, ended=True)]
    scores, gradients = [], []
    for mixed in (False, True):
        model, _ = load_checkpoint(folder, torch.float32)
        if mixed:
            in_mixed_precision(model)
        model, parameters = make_tunable(model, tuning)
        scores.append(label_scores(model.eval(), ids, labels))
        losses, _ = tuned_module.piece_losses(model, ids, answers, list(backbone.lead_in(CUE)))
        assert losses.dtype == torch.float32
        tuned = {name: value for name, value in parameters.items() if not name.endswith("up.weight")}
        found = torch.autograd.grad(losses.sum(), list(tuned.values()), allow_unused=True)
        gradients.append(torch.cat([each.flatten() for each in found if each is not None]))
        assert written_answers(model, ids[:1], FreeText(backbone, CUE, 3))
    assert not torch.equal(*scores)  # something was rounded
    torch.testing.assert_close(scores[1], scores[0], atol=0.1, rtol=0.02)
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_the_losses_of_answers_are_those_of_transformers_one_by_one(folder: Path) -> None:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, _ = load_checkpoint(folder, torch.float32)
    ids, _ = backbone.tokenize(TEXTS, 64)
    answers = [list(pieces) for pieces in backbone.answer_pieces(WORDS, CUE, ended=True)]
    lead_in = list(backbone.lead_in(CUE))
    losses, labels = tuned_module.piece_losses(model.eval(), ids, answers, lead_in)
    assert labels[labels != -100].tolist() == [piece for answer in answers for piece in answer]
    for row, (text, answer) in enumerate(zip(ids, answers, strict=True)):
        given = [*lead_in, *answer[:-1]]
        if model.config.is_encoder_decoder:
            logits = model(input_ids=torch.tensor([text]), decoder_input_ids=torch.tensor([given])).logits[0]
        else:
            logits = model(input_ids=torch.tensor([[*text, *given]])).logits[0]
        said = logits[-len(answer) :].log_softmax(-1)
        expected = [-float(said[place, piece].detach()) for place, piece in enumerate(answer)]
        torch.testing.assert_close(losses[row][labels[row] != -100], torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_a_step_is_torchs_adamw(folder: Path, data_file: Path) -> None:
    mine = begun(folder, data_file, warmup=0, schedule="constant", clip=None, steps=2)
    other = begun(folder, data_file, warmup=0, schedule="constant", clip=None, steps=2)
    optimizer = torch.optim.AdamW(other.parameters.values(), lr=1e-3, weight_decay=0.0)
    chosen: list[list[int]] = []
    original = tuned_module.batching.endless

    def recorded(*arguments, **options):
        for batch in original(*arguments, **options):
            chosen.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_module.batching, "endless", recorded)
        mine.step(0, 0.0)
    rows = other.rows
    losses, labels = tuned_module.piece_losses(
        other.model,
        [rows.training[index] for index in chosen[0]],
        [rows.labels.targets(rows.answers)[index] for index in chosen[0]],
        rows.labels.lead_in,
    )
    (losses.sum() / (labels != -100).sum()).backward()
    optimizer.step()
    assert mine.loss == pytest.approx(float(losses.detach().sum() / (labels != -100).sum()), rel=1e-5)
    for name, parameter in other.parameters.items():
        torch.testing.assert_close(mine.parameters[name], parameter, atol=2e-5, rtol=1e-3)


def test_it_learns_what_is_to_be_learnt_and_keeps_the_best(folder: Path, data_file: Path, tmp_path: Path) -> None:
    tuned = begun(folder, data_file, steps=60, evaluate_every=20, learning_rates=(1e-2,), patience=None)
    Loop(tmp_path, tuned, tuned.budget, "again").run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line["dev_score"] for line in lines if "dev_score" in line]
    assert tuned.best.score == max(scores) > scores[0]
    with torch.no_grad():
        for name, parameter in tuned.parameters.items():
            parameter.copy_(tuned.kept[name])
    again = label_scores(tuned.model, tuned.rows.development, tuned.rows.labels)
    assert float((again.argmax(-1) == tuned.rows.gold).float().mean()) == pytest.approx(tuned.best.score)


def test_interrupted_and_resumed_it_ends_where_it_would_have_ended(
    checkpoint_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parted"):
        (tmp_path / name).mkdir()
    whole = begun(checkpoint_folder, data_file)
    Loop(tmp_path / "whole", whole, whole.budget, "again").run()
    parted = begun(checkpoint_folder, data_file)
    step = parted.step

    def until_the_third(number: int, done: float) -> int:
        if number == 3:
            loop.stop = lambda: True  # type: ignore[assignment]
        return step(number, done)

    loop = Loop(tmp_path / "parted", parted, parted.budget, "again")
    monkeypatch.setattr(parted, "step", until_the_third)
    with pytest.raises(Interrupted):
        loop.run()
    resumed = begun(checkpoint_folder, data_file)
    Loop(tmp_path / "parted", resumed, resumed.budget, "again").run()
    for name, parameter in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], parameter), name


@torch.no_grad()
def argmax_after(model: Any, ids: list[int], lead_in: tuple[int, ...], most: int) -> list[int]:
    """The likeliest piece each time, by whole passes over one text, without a cache and without padding."""
    said: list[int] = []
    while len(said) < most and (not said or said[-1] != model.generation_config.eos_token_id):
        if model.config.is_encoder_decoder:
            begun = torch.tensor([[*lead_in, *said]])
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=begun, use_cache=False).logits
        else:
            logits = model(input_ids=torch.tensor([[*ids, *lead_in, *said]]), use_cache=False).logits
        said.append(int(logits[0, -1].argmax()))
    return said


def holds(model: Any, backbone: Backbone, cue: str = "Answer:") -> None:
    """Fail unless the model writes of texts of several lengths what it writes of each by itself, one of which ends
    before the others."""
    text = FreeText(backbone, cue, 7)
    ids, _ = backbone.tokenize([backbone.question(each, cue) for each in MORE_TEXTS], 64)
    unended = [argmax_after(model, item, text.lead_in, 7) for item in ids]
    each = [set(item) for item in unended]
    model.generation_config.eos_token_id = next(
        piece for item in unended for piece in item[1:-1] if sum(piece in other for other in each) == 1
    )
    alone = [argmax_after(model, item, text.lead_in, 7) for item in ids]
    assert min(map(len, alone)) < max(map(len, alone)) == 7
    expected = [text.word_of(backbone.tokenizer.decode(item, skip_special_tokens=True)) for item in alone]
    assert len(set(expected)) > len(ids) // 2
    model.generation_config.do_sample = True  # as some checkpoints have it: it is not heeded
    heard: list[int] = []
    assert written_answers(model, ids, text, heard.append) == expected
    assert sum(heard) == len(ids)


@pytest.mark.parametrize("tuning", ["full", "adapters", "lora", "ia3"])
def test_writes_what_whole_passes_give_row_by_row(folder: Path, tuning: Tuning) -> None:
    if tuning in OF_PEFT:
        pytest.importorskip("peft")
    model, parameters = make_tunable(load_checkpoint(folder, torch.float32)[0], tuning, rank=2, width=4)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    holds(model.eval(), load_backbone(folder, dtype="float32", device="cpu"))


def test_writes_on_after_a_sentinel(checkpoint_folder: Path) -> None:
    model, _ = load_checkpoint(checkpoint_folder, torch.float32)
    holds(model.eval(), load_backbone(checkpoint_folder, dtype="float32", device="cpu"), SENTINEL)


def test_padding_on_the_left_moves_no_position(causal_folder: Path) -> None:
    """Of a model whose positions come from a table, and that has no piece to pad with."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 16384, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, tie_word_embeddings=False)
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    assert model.config.pad_token_id is None
    holds(model, load_backbone(causal_folder, dtype="float32", device="cpu"))


def test_an_untuned_model_s_loss_of_answers_is_the_frozen_backbone_s(folder: Path) -> None:
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    model, _ = load_checkpoint(folder, torch.float32)
    text, (ids, _) = FreeText(backbone, "Answer:", 4), backbone.tokenize(TEXTS, 64)
    labeller = Labeller(backbone, Prompts.bare(), text)
    (expected,) = answer_losses(labeller, text, Inputs(backbone, ids), WORDS)
    found = answer_loss(model.eval(), ids, text.targets(WORDS), text.lead_in)
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_to_write_and_is_judged_by_what_it_writes(folder: Path, data_file: Path, tmp_path: Path) -> None:
    fields = {"steps": 40, "evaluate_every": 20, "learning_rates": (1e-2,), "patience": None}
    tuned = begun(folder, data_file, free_text=True, **fields)
    assert {tuple(pieces) for pieces in tuned.targets} == {
        tuple(pieces) for pieces in tuned.rows.wanted.backbone.answer_pieces(["yes", "no"], "Answer:", ended=True)
    }
    Loop(tmp_path, tuned, tuned.budget, "again").run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line["dev_score"] for line in lines if "dev_score" in line]
    assert tuned.best.score == max(scores) > scores[0]
    with torch.no_grad():
        for name, parameter in tuned.parameters.items():
            parameter.copy_(tuned.kept[name])
    model, text = tuned.model.eval(), tuned.rows.wanted
    alone = [argmax_after(model, item, text.lead_in, text.most) for item in tuned.rows.development]
    said = [text.word_of(text.backbone.tokenizer.decode(item, skip_special_tokens=True)) for item in alone]
    gold = [example.answers for example in tuned.rows.held_out]
    assert tuned.best.score == pytest.approx(metric("exact_text+text_f1", gold, said))

"""Answers in free text, held against Transformers' own loss and generation."""

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
from preface.labelling.free_text import FreeText, answer_losses, write_each
from preface.labelling.labeller import Labeller
from preface.methods import PrefixTuning, PromptTuning
from preface.prompts import Prompts, stack
from preface.tasks import iter_examples, load_split, load_task
from preface.tasks.registry import task_of
from preface.tasks.split import few
from preface.tasks.task import SENTINEL
from tests.serving.making import made

TEXTS = ["where is the cat?", "who said so, and when?", "what?"]
ANSWERS = ["on the mat", "nobody", "a question"]


@pytest.fixture(scope="module")
def causal(causal_folder: Path) -> Backbone:
    return load_backbone(causal_folder, dtype="float32", device="cpu")


@pytest.fixture(params=["t5", "causal"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.getfixturevalue("tiny_float32" if request.param == "t5" else "causal")


def asked(backbone: Backbone, most: int = 6) -> tuple[FreeText, list[list[int]], Labeller]:
    text = FreeText(backbone, "Answer:", most)
    ids, _ = backbone.tokenize([backbone.question(each, "Answer:") for each in TEXTS], 64)
    return text, ids, Labeller(backbone, Prompts.bare(2), text)


def test_texts_that_have_been_read_are_not_read_again(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    text, ids, labeller = asked(backbone)
    expected = write_each(labeller, text, Inputs(backbone, ids))
    kept = Inputs(backbone, ids, keep=True)
    kept.keep(range(len(ids)))
    monkeypatch.setattr(type(backbone), "read", None)
    assert write_each(labeller, text, kept) == expected


def plain(backbone: Backbone) -> Any:
    """The same model as Transformers loads it."""
    kind = AutoModelForSeq2SeqLM if backbone.model.config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(backbone.name).eval()


def own_losses(model: Any, ids: list[int], answer: list[int], lead_in: tuple[int, ...]) -> torch.Tensor:
    """Of an answer's pieces, by the model's own forward pass."""
    said = torch.tensor(answer)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            logits = model(input_ids=torch.tensor([ids]), labels=said[None]).logits[0]
        else:
            logits = model(torch.tensor([[*ids, *lead_in, *answer[:-1]]])).logits[0, -len(answer) :]
    return cross_entropy(logits, said, reduction="none")


def test_losses_are_the_model_s_own(backbone: Backbone) -> None:
    text, ids, labeller = asked(backbone)
    targets = text.targets(ANSWERS)
    assert all(pieces[-1] == backbone.end for pieces in targets)
    model = plain(backbone)
    each = [own_losses(model, *pair, text.lead_in) for pair in zip(ids, targets, strict=True)]
    found = answer_losses(labeller, text, Inputs(backbone, ids), ANSWERS)
    torch.testing.assert_close(found, torch.cat(each).mean().expand(2), atol=1e-3, rtol=1e-4)


def test_writes_what_the_model_writes(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest, also of a checkpoint that says that it would rather draw."""
    monkeypatch.setattr(backbone.model.generation_config, "do_sample", True)
    text, ids, labeller = asked(backbone)
    expected, model = [], plain(backbone)
    for item in ids:
        read = item if model.config.is_encoder_decoder else [*item, *text.lead_in]
        tokens = model.generate(torch.tensor([read]), max_new_tokens=6, do_sample=False, use_cache=False)[0]
        new = tokens if model.config.is_encoder_decoder else tokens[len(read) :]
        expected.append(text.word_of(backbone.tokenizer.decode(new, skip_special_tokens=True)))
    assert write_each(labeller, text, Inputs(backbone, ids)) == [expected] * 2


@pytest.mark.parametrize("carriers", ["answer", "all"])
def test_prompts_write_side_by_side_what_each_writes_alone(
    backbone: Backbone, carriers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they leave reading alone or not, and however many texts go together."""
    monkeypatch.setattr("preface.labelling.labeller.WRITING_BUDGET", 40)
    sites = (backbone.answer_site,) if carriers == "answer" else tuple(backbone.sites)
    several = [made(backbone, PrefixTuning(length=length, sites=sites), length, ["yes", "no"]) for length in (2, 3, 5)]
    text, ids, _ = asked(backbone)
    done: list[int] = []
    together = write_each(Labeller(backbone, stack(several), text), text, Inputs(backbone, ids), done.append)
    assert together == [write_each(Labeller(backbone, one, text), text, Inputs(backbone, ids))[0] for one in several]
    assert sum(done) == 9
    assert len(done) > 1


def test_after_a_sentinel(tiny_float32: Backbone) -> None:
    """Lester et al. 2021, section 3.3: what is said is what the model says once it has begun with a sentinel."""
    text, ids, _ = asked(tiny_float32)
    text = FreeText(tiny_float32, SENTINEL, 4)
    model, first = plain(tiny_float32), tiny_float32.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert text.lead_in == (0, first)
    labeller = Labeller(tiny_float32, Prompts.bare(), text)
    expected, losses = [], []
    for item, answer in zip(ids, text.targets(ANSWERS), strict=True):
        begun = torch.tensor([[0, first]])
        given = {"input_ids": torch.tensor([item]), "use_cache": False}
        tokens = model.generate(**given, decoder_input_ids=begun, max_new_tokens=4, do_sample=False)[0, 2:]
        expected.append(text.word_of(tiny_float32.tokenizer.decode(tokens, skip_special_tokens=True)))
        read = torch.tensor([[0, first, *answer[:-1]]])
        with torch.no_grad():
            logits = model(**given, decoder_input_ids=read).logits[0, 1:]
        losses.append(cross_entropy(logits, torch.tensor(answer), reduction="none"))
    assert write_each(labeller, text, Inputs(tiny_float32, ids)) == [expected]
    found = answer_losses(labeller, text, Inputs(tiny_float32, ids), ANSWERS)
    torch.testing.assert_close(found, torch.cat(losses).mean()[None], atol=1e-3, rtol=1e-4)


def test_a_model_that_goes_on_writing_has_no_sentinels(causal: Backbone) -> None:
    with pytest.raises(UserError, match="cue sentinel: is for the T5 family"):
        causal.question("{text}", SENTINEL)


def test_the_first_line_counts() -> None:
    assert FreeText(None, "", 1).word_of(" on the mat \nWhat else?") == "on the mat"  # type: ignore[arg-type]


DEFINITION: dict[str, Any] = {
    "name": "colours",
    "source": {"files": {"parts": {"all": "rows.jsonl"}}},
    "fields": {"input": "text", "label": "answers"},
    "metric": "exact_text",
    "answer_pieces": 4,
    "splits": {
        "train": {"part": "all"},
        "validation": {"part": "all", "share": 0.25},
        "test": {"part": "all", "size": 8},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    rows = [{"text": f"the thing number {i}", "answers": ["the green", "red"]} for i in range(48)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_prompt_learns_to_write(nano: Backbone, folder: Path, tmp_path: Path) -> None:
    task = task_of(DEFINITION, "colours.yaml")
    recipe = {"learning_rates": [0.1], "seeds": 2, "steps": 40, "batch_size": 8, "evaluate_every": 20}
    run = preface.train(nano, task, PrefixTuning(length=4), out=tmp_path / "run", data=folder, **recipe)
    assert run.best.score == 1
    assert run.result.majority == 1
    (line, *_) = (run.folder / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line) == {"label": "the green", "probabilities": None, "gold": ["the green", "red"]}
    cell = preface.evaluate(run, data=folder, prompts="best")[0]
    assert (cell.metric, cell.value, cell.n) == ("exact_text", 1, 8)
    assert "confusion" not in cell.details
    assert cell.details["scoring"] == "generate"
    assert list(preface.predict(run, ["the thing number 99"])) == [{"answer": "the green", "line": 1}]


def test_a_data_file_may_hold_answers(nano: Backbone, folder: Path, tmp_path: Path) -> None:
    options = {"input": "text", "label": "answers", "free_text": True}
    recipe = {"learning_rates": [0.1], "seeds": 1, "steps": 2, "batch_size": 8}
    run = preface.train(nano, folder / "rows.jsonl", "prefix-tuning", out=tmp_path / "run", **options, **recipe)
    (cell,) = preface.evaluate(run, on=[folder / "rows.jsonl"], input="text", label="answers")
    assert (cell.metric, cell.n) == ("exact_text+text_f1", 48)
    assert set(cell.details["metrics"]) == {"exact_text", "text_f1"}
    with pytest.raises(UserError, match="free-text: is for a data file"):
        load_task("film", free_text=True)
    with pytest.raises(UserError, match="with free_text there are none"):
        load_task(folder / "rows.jsonl", free_text=True, label_words={"a": "b"})


@pytest.mark.parametrize(
    "method", [PrefixTuning(length=4), PromptTuning(length=4, place="after")], ids=["prefix", "after"]
)
def test_prompts_that_leave_reading_alone_learn_too(
    causal: Backbone, folder: Path, tmp_path: Path, method: Any
) -> None:
    task = task_of(DEFINITION, "colours.yaml")
    recipe = {"learning_rates": [0.03], "seeds": 1, "steps": 12, "batch_size": 8, "evaluate_every": 4}
    run = preface.train(causal, task, method, out=tmp_path / "run", data=folder, **recipe)
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    losses = [line["dev_loss"] for line in lines if "dev_loss" in line]
    assert losses == sorted(losses, reverse=True)
    assert run.best.loss == pytest.approx(losses[-1])


def test_what_free_text_cannot_be(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    task = task_of(DEFINITION, "colours.yaml")
    recipe = {"learning_rates": [0.1], "seeds": 2, "steps": 1, "batch_size": 8}
    with pytest.raises(UserError, match="class-weights balanced"):
        preface.train(
            backbone, task, "prompt-tuning", out=tmp_path / "no", data=folder, class_weights="balanced", **recipe
        )
    run = preface.train(backbone, task, PromptTuning(length=2), out=tmp_path / "run", data=folder, **recipe)
    with pytest.raises(UserError, match="the answers of colours are free text, those of film are labels"):
        preface.evaluate(run, on=["film"])
    with pytest.raises(UserError, match="only labels can be voted on"):
        preface.ensemble([run], tmp_path / "ensemble", prompts="all", data=folder)
    with pytest.raises(UserError, match="which has no scores"):
        preface.evaluate(backbone=backbone, on=[task], data=folder, calibration="batch")
    experiment = {"title": "t", "train_task": "squad", "eval_tasks": ["squad"], "columns": ["tf-idf"]}
    (tmp_path / "spec.yaml").write_text(json.dumps(experiment))
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v1.1.json").write_text(json.dumps(SQUAD))
    with pytest.raises(UserError, match="knows labels alone, and the answers of squad are free text"):
        preface.compare_cross_domain(tmp_path / "spec.yaml", out=tmp_path / "out", data=tmp_path)


SQUAD = {
    "data": [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": f"{title} is here.",
                    "qas": [
                        {"id": f"{title}{i}", "question": f"Where is {title}, {i}?",
                         "answers": [{"text": "here", "answer_start": 4}, {"text": "is here", "answer_start": 1}]}
                        for i in range(2)
                    ],
                }
            ],
        }
        for title in "ABCDEF"
    ]
}  # fmt: skip


def test_squad_is_read_as_it_is_distributed(tmp_path: Path) -> None:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v1.1.json").write_text(json.dumps(SQUAD))
    rows = load_split("squad", "test", data=tmp_path).examples
    assert len(rows) == 12
    assert rows[0].text == "Question: Where is A, 0? Context: A is here."
    assert rows[0].answers == ("here", "is here")
    assert len({row.group for row in rows}) == 6
    assert load_task("squad").free_text


def test_record_is_read_as_it_is_distributed(tmp_path: Path) -> None:
    rows = [
        {
            "source": "Daily mail",
            "passage": {
                "text": f"{name} Mackay came to Ljubljana.\n@highlight\nMackay won",
                "entities": [{"start": 0, "end": 5}],
            },
            "qas": [
                {
                    "query": "@placeholder won there",
                    "idx": 0,
                    "answers": [{"start": 0, "text": f"{name} Mackay"}, {"start": 41, "text": "Mackay"}],
                }
            ],
            "idx": 0,
        }
        for name in ("Hamish", "Ivan")
    ]  # fmt: skip
    (tmp_path / "super_glue" / "ReCoRD").mkdir(parents=True)
    (tmp_path / "super_glue" / "ReCoRD" / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, _ = load_split("record", "test", data=tmp_path).examples
    assert first.text == (
        "Hamish Mackay came to Ljubljana. Mackay won Query: @placeholder won there What is @placeholder?"
    )
    assert first.answers == ("Hamish Mackay", "Mackay")


def test_new_rows_need_no_group_and_shots_no_free_text(tmp_path: Path) -> None:
    row = {"question": "Where is A?", "context": "A is here."}
    (tmp_path / "new.jsonl").write_text(json.dumps(row))
    ((_, example),) = iter_examples(load_task("squad"), tmp_path / "new.jsonl")
    assert example.text == "Question: Where is A? Context: A is here."
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "dev-v1.1.json").write_text(json.dumps(SQUAD))
    with pytest.raises(UserError, match="the answers of squad are free text; give train-rows"):
        few(load_split("squad", "test", data=tmp_path), 2, 0)


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ("red", ("red",)),
        (["red", "blue", "red"], ("red", "blue")),
        ({"text": ["red"], "answer_start": [3]}, ("red",)),
        ([{"text": "red"}, {"text": "blue"}], ("red", "blue")),
        ([], None),
        (" ", None),
        (1987, ("1987",)),
        (True, None),
    ],
)
def test_forms_of_answers(answers: Any, right: tuple[str, ...] | None, tmp_path: Path) -> None:
    rows = [{"text": f"thing {i}", "answers": answers} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = task_of(DEFINITION, "colours.yaml")
    if right is None:
        with pytest.raises(UserError, match="line 1: the field 'answers' holds no text"):
            load_split(task, "test", data=tmp_path)
    else:
        assert {row.answers for row in load_split(task, "test", data=tmp_path).examples} == {right}

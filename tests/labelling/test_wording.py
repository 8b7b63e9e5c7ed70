"""The wording of a bare backbone is chosen on development rows, recorded and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.answers import predictions_on
from preface.labelling.wording import best_wording, with_best_wording, wordings
from preface.prompts import Prompts
from preface.tasks import load_split, load_task
from preface.tasks.metric import metric
from preface.tasks.task import Instruction


def test_every_task_has_wordings(data_file: Path) -> None:
    own = wordings(load_task(data_file))
    assert [each.template for each in own] == ["{text}", "{text}\nOne of: no, yes."]
    film = load_task("film")
    assert wordings(film)[2:] == list(film.instructions)


def test_the_best_on_development_rows_is_chosen(nano: Backbone) -> None:
    task, rows = load_task("film"), load_split("film", "validation").examples[:40]
    gold = [str(row.label) for row in rows]
    scores = []
    for instruction in wordings(task):
        (given,), _ = predictions_on(nano, rows, task.label_words, [Prompts.bare()], instruction=instruction)
        scores.append(metric("accuracy", gold, [prediction.label for prediction in given]))
    best = best_wording(nano, task, rows, 512)
    assert best.instruction == wordings(task)[scores.index(max(scores))]
    assert best.chosen_on == f"film, 40 development rows, accuracy {100 * max(scores):.1f}"


def test_answers_of_a_wording_stand_for_the_label_words(nano: Backbone) -> None:
    rows = load_split("film", "validation").examples[:12]
    asked = Instruction(template="{text} Is it good?", answers={"positive": "yes", "negative": "no"})
    plain = Instruction(template="{text} Is it good?")
    (named,), _ = predictions_on(nano, rows, ("negative", "positive"), [Prompts.bare()], instruction=asked)
    (said,), _ = predictions_on(nano, rows, ("no", "yes"), [Prompts.bare()], instruction=plain)
    words = {"no": "negative", "yes": "positive"}
    assert [words[each.label] for each in said] == [each.label for each in named]
    for mine, theirs in zip(named, said, strict=True):
        assert mine.probabilities == {words[word]: p for word, p in (theirs.probabilities or {}).items()}


def test_evaluate_chooses_says_and_records(nano: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = preface.evaluate(None, ["film"], backbone=nano)
    assert cell.details["instruction_chosen_on"].startswith("film, 100 development rows, accuracy ")
    assert "does best on 100 development rows of film" in capsys.readouterr().err
    (given,) = preface.evaluate(None, ["film"], backbone=nano, instruction=cell.details["instruction"])
    assert given.details["instruction_chosen_on"] is None
    assert given.value == cell.value


def test_without_development_rows_it_is_the_task_s_first(nano: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = preface.evaluate(None, ["posts"], backbone=nano)
    assert cell.details["instruction"] == load_task("posts").instructions[0].template
    assert "posts: no development rows to choose a wording by" in capsys.readouterr().err


def test_where_rows_to_train_on_are_nowhere_it_is_the_first_too(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QNLI's folder may have the development set alone, on which GLUE is tested."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "glue" / "QNLI").mkdir(parents=True)
    rows = "".join(f"{i}\tWho is {i}?\tIt is I.\t{'not_' * (i % 2)}entailment\n" for i in range(6))
    (tmp_path / "glue" / "QNLI" / "dev.tsv").write_text("index\tquestion\tsentence\tlabel\n" + rows)
    (cell,) = preface.evaluate(None, ["qnli"], backbone=nano, data=tmp_path)
    assert (cell.n, cell.details["instruction"]) == (6, load_task("qnli").instructions[0].template)
    with pytest.raises(UserError, match=r"qnli: its train part was not found .* lacks glue/QNLI/train\.tsv"):
        preface.evaluate(None, ["qnli"], backbone=nano, data=tmp_path, split="validation")


# the wording that a prompt is trained under


def test_the_best_for_a_prompt_asks_for_the_label_words_themselves(nano: Backbone) -> None:
    rows = load_split("film", "validation").examples[:40]
    plain, task = load_task("film"), load_task("film", wording="best")
    some = [one for one in wordings(task) if not one.answers]
    assert 1 < len(some) < len(wordings(task))
    chosen = with_best_wording(nano, task, rows, 512)
    assert chosen.wording == best_wording(nano, task, rows, 512, among=some).instruction.template
    assert chosen == plain.model_copy(update={"wording": chosen.wording})
    assert with_best_wording(nano, plain, rows, 512) is plain


@pytest.mark.parametrize("folder", ["checkpoint_folder", "causal_folder"])
def test_a_prompt_reads_every_text_under_its_wording(
    folder: str, data_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As prompts of a task whose template says the same; on another file too, of which a template would not be said."""
    (held_out := tmp_path / "held-out.jsonl").write_text(data_file.read_text().replace("number", "of kind"))
    backbone = preface.load_backbone(request.getfixturevalue(folder), dtype="float32")
    how = {"steps": 4, "learning_rates": [0.3], "batch_size": 8, "validation": held_out}
    options = how | {"method": "prompt-tuning"}
    worded = preface.train(backbone, data_file, wording="mood: {text}", out=tmp_path / "worded", **options)
    other = preface.train(backbone, data_file, template="mood: {text}", out=tmp_path / "other", **options)
    assert worded.record.task.wording == "mood: {text}"
    assert [one.score for one in worded.members] == [one.score for one in other.members]
    for mine, theirs in zip(worded.members, other.members, strict=True):
        for name, tensor in worded.prompt(mine.index).prompts.tensors.items():
            assert torch.equal(tensor, other.prompt(theirs.index).prompts.tensors[name])
    texts = ["the good thing", "a bad day"]
    assert list(preface.predict(worded, texts)) == list(preface.predict(other, texts))
    (mine,) = preface.evaluate(worded, [held_out], prompts="best")
    (theirs,) = preface.evaluate(other, [held_out], prompts="best", template="mood: {text}")
    said, expected = (read_predictions(cell.details["predictions"]) for cell in (mine, theirs))
    assert said == expected


def read_predictions(path: str) -> list[dict[str, float]]:
    return [json.loads(line)["probabilities"] for line in Path(path).read_text().splitlines()]


def test_a_wording_holds_the_text_and_nothing_else(data_file: Path) -> None:
    for wrong in ("no text", "{premise} {text}", "{text"):
        with pytest.raises(UserError, match=r"wording|template"):
            load_task(data_file, wording=wrong)
    assert load_task("rte", wording="best").wording == "best"

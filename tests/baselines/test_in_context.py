from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.baselines.column import Setting
from preface.baselines.in_context import InContext, before_each_text
from preface.errors import UserError
from preface.labelling.answers import predictions_on
from preface.methods.init import text_ids
from preface.options import validated
from preface.tasks import Example, Template, load_task
from preface.tasks.options import DataOptions

DEMONSTRATIONS = "a dull thing\nAnswer: no\n\na good thing\nAnswer: yes\n\n"
TEXTS = ["one more", "it is long and it is not what I came to see"]
WORDS = ("yes", "no")


@torch.no_grad()
def test_a_decoder_only_model_says_what_it_says_of_the_whole_text(causal_folder: Path) -> None:
    backbone = load_backbone(causal_folder, dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(causal_folder, dtype=torch.float32).eval()
    prompts = before_each_text(backbone, DEMONSTRATIONS)
    (given,), _ = predictions_on(backbone, [Example.of(text) for text in TEXTS], WORDS, [prompts], goes_on=True)
    before = [*backbone.begin, *backbone.tokenizer(DEMONSTRATIONS, add_special_tokens=False)["input_ids"]]
    lead_in = backbone.lead_in("Answer:")
    for text, prediction in zip(TEXTS, given, strict=True):
        (read,), _ = backbone.tokenize([backbone.question("{text}", "Answer:").format(text=text)], 64)
        scores = []
        for pieces in backbone.answer_pieces(WORDS, "Answer:"):
            whole = torch.tensor([[*before, *read[len(backbone.begin) :], *lead_in, *pieces]])
            likely = model(whole).logits[0].log_softmax(-1)
            places = range(whole.shape[1] - len(pieces) - 1, whole.shape[1] - 1)
            scores.append(sum(likely[place, piece] for place, piece in zip(places, pieces, strict=True)))
        expected = torch.stack(scores).softmax(0)  # type: ignore[arg-type]
        assert [prediction.probabilities[word] for word in WORDS] == pytest.approx(expected.tolist(), abs=1e-4)


@torch.no_grad()
def test_t5_reads_the_demonstrations_with_the_text(tiny: Backbone, checkpoint_folder: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint_folder, dtype=torch.float32).eval()
    prompts = before_each_text(tiny, DEMONSTRATIONS)
    (given,), _ = predictions_on(tiny, [Example.of(text) for text in TEXTS], WORDS, [prompts])
    before = tiny.tokenizer(DEMONSTRATIONS, add_special_tokens=False)["input_ids"]
    for text, prediction in zip(TEXTS, given, strict=True):
        ids = torch.tensor([[*before, *tiny.tokenize([text], 64)[0][0]]])
        scores = []
        for word in WORDS:
            target = torch.tensor(tiny.tokenize([word], 16)[0])
            scores.append(-model(input_ids=ids, labels=target).loss * target.shape[1])
        expected = torch.stack(scores).softmax(0)
        assert [prediction.probabilities[word] for word in WORDS] == pytest.approx(expected.tolist(), abs=1e-3)


def test_demonstrations_are_balanced_drawn_by_seed_and_fit_the_window(nano: Backbone, tmp_path: Path) -> None:
    setting = Setting(tmp_path, DataOptions(), backbone=nano)
    task = setting.task("film")

    def drawn(seed: int, **fields: int) -> list[str]:
        column = validated(InContext, {"backbone": "nano", "train_task": "film", **fields})
        return column.demonstrations(nano, setting.drawn(task, column.shots, seed).examples, task)

    texts = drawn(0, shots=3)
    endings = [text.strip().split()[-1] for text in texts]
    assert sorted(endings) == ["negative"] * 3 + ["positive"] * 3
    assert all(set(endings[place : place + 2]) == {"negative", "positive"} for place in (0, 2, 4))
    assert drawn(0, shots=3) == texts != drawn(1, shots=3)
    few = drawn(0, shots=3, window=90)
    assert [text.strip().split()[-1] for text in few] == endings
    assert all(len(text_ids(nano, text)) <= 17 for text in few)  # a share of 15, and what cutting splits anew
    with pytest.raises(UserError, match="6 demonstrations have 3 pieces each; give fewer shots"):
        drawn(0, shots=3, window=20)


def test_a_long_demonstration_keeps_its_question(nano: Backbone) -> None:
    template = Template.parse("{passage}\nQuestion: {question}")
    rows = [Example({"passage": "so it was " * 200, "question": "was it?"}, label, template) for label in WORDS]
    column = validated(InContext, {"backbone": "nano", "train_task": "film", "shots": 1, "window": 120})
    texts = column.demonstrations(nano, rows, load_task("film").model_copy(update={"label_words": WORDS}))
    assert all(text.startswith("so it was so it was") and "\nQuestion: was it?\n" in text for text in texts)


def test_a_cell_for_each_draw(nano: Backbone, tmp_path: Path) -> None:
    setting = Setting(tmp_path, DataOptions(), backbone=nano)
    column = validated(InContext, {"backbone": "nano", "train_task": "film", "seeds": 2, "shots": 1})
    (cells,) = column.cells(setting, [setting.task("posts")])
    assert [cell.seed for cell in cells] == [0, 1]
    assert all(cell.trained_parameters == 0 and cell.details["demonstrations"] == 2 for cell in cells)
    assert all(0 < cell.value < 1 and cell.n == 150 for cell in cells)

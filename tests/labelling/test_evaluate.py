from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.measures import confusion, wilson
from preface.methods import PrefixTuning, PromptTuning
from preface.records.card import load_prompt, save_prompt
from preface.records.results import read_cells
from preface.records.run import Run
from preface.tasks import DataOptions, load_task

WORDS = {"yes": "positive", "no": "negative"}


@pytest.fixture(scope="module")
def run(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return preface.train(
        nano,
        "film",
        PrefixTuning(length=4),
        out=tmp_path_factory.mktemp("runs") / "film",
        learning_rates=[1e-3, 1e-2],
        seeds=2,
        steps=4,
        batch_size=8,
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_cells_are_what_the_predictions_say(run: Run) -> None:
    cells = preface.evaluate(run, on=["posts", "company_news"])
    assert [(cell.eval_task, cell.seed) for cell in cells] == [
        ("posts", 0), ("posts", 1), ("company_news", 0), ("company_news", 1)
    ]  # fmt: skip
    rate = run.best_rate[0].learning_rate
    for cell in cells:
        file = run.folder / "evaluations" / f"{cell.eval_task}-test-prefix-tuning-lr{rate:g}-seed{cell.seed}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(rows) == cell.n >= 150
        assert cell.value == accuracy_score([row["gold"] for row in rows], [row["label"] for row in rows])
        assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in rows)
        assert (cell.train_task, cell.method, cell.backbone) == ("film", "prefix-tuning", "nano")
        assert cell.trained_parameters == 4 * 2 * 256 * 12
        assert 4 * cell.trained_parameters < cell.details["stored_bytes"] < 4 * cell.trained_parameters + 1_000  # names
        assert cell.details["learning_rate"] == rate
        assert cell.details["sources"][0]["sha256"]
        assert set(cell.versions) >= {"torch", "transformers", "preface"}
    assert len(read_cells(run.folder / "evaluations" / "results.json")) == 4
    preface.evaluate(run, on=["posts"])
    assert len(read_cells(run.folder / "evaluations" / "results.json")) == 4


def test_which_prompts(run: Run) -> None:
    assert len(preface.evaluate(run, on=["posts"], prompts="all")) == 4
    best = preface.evaluate(run.folder, on=["posts"], prompts="best")
    alone = preface.evaluate(run.folder / "prompt", on=["posts"])
    assert [cell.value for cell in best] == [cell.value for cell in alone]


def test_a_single_task_needs_no_list(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "alone.jsonl", [{"text": f"row {i}", "label": "positive"} for i in range(3)])
    for on, name in (("posts", "posts"), (file, "alone.jsonl"), (load_task("posts"), "posts")):
        assert [cell.eval_task for cell in preface.evaluate(run, on=on, prompts="best")] == [name]


def test_the_own_task_is_the_default(run: Run) -> None:
    assert {cell.eval_task for cell in preface.evaluate(run, prompts="best")} == {"film"}


def test_zero_shot_is_the_bare_backbone(nano: Backbone) -> None:
    (cell,) = preface.evaluate(on=["film"], backbone=nano)
    assert (cell.method, cell.train_task, cell.trained_parameters, cell.seed) == ("zero-shot", None, 0, None)
    assert cell.value > 0.7  # it was pre-trained on the sentiment of reviews, prompted in these words


def test_free_generation_counts_illegal_labels(nano: Backbone, run: Run) -> None:
    (free,) = preface.evaluate(on=["film"], backbone=nano, scoring="generate")
    (ranked,) = preface.evaluate(on=["film"], backbone=nano)
    assert 0 <= free.details["illegal"] <= 1
    assert free.value <= ranked.value + 1e-9 or free.details["illegal"] < 1
    (nonsense,) = preface.evaluate(on=["film"], backbone=nano, scoring="generate", instruction="question type: {text}")
    assert nonsense.details["illegal"] > 0
    assert [cell.details["scoring"] for cell in (free, ranked)] == ["generate", "rank"]
    assert nonsense.details["instruction"] == "question type: {text}"


def test_own_data_beside_shipped_tasks(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"words": f"row {i}", "good": "yn"[i % 2]} for i in range(6)])
    cells = preface.evaluate(
        run,
        on=["posts", str(file)],
        input="words",
        label="good",
        label_words={"y": "positive", "n": "negative"},
        prompts="best",
    )
    assert [(cell.eval_task, cell.n) for cell in cells] == [("posts", 150), ("mine.jsonl", 6)]


def test_own_data_with_the_fields_that_were_trained_on(nano: Backbone, tmp_path: Path) -> None:
    """As `predict` reads it, its template included; what is named goes first."""
    rows = [{"Question": f"no. {i}", "Place": "here", "text": "no", "Team": "ab"[i % 2], "label": 1} for i in range(9)]
    names = {"template": "{Question}? {Place}", "label": "Team"}
    how: dict[str, Any] = {"steps": 1, "learning_rates": [0.1], "batch_size": 4}
    own = preface.train(
        nano, write(tmp_path / "train.jsonl", rows), PromptTuning(length=1), out=tmp_path / "r", **names, **how
    )
    file = write(tmp_path / "new.jsonl", rows[:3])
    trained = own.record.task
    read = DataOptions().eval_task(file, trained)
    assert (read.fields, read.template) == (trained.fields, trained.template)
    named = DataOptions(input=("text",), label="label").eval_task(file, trained)
    assert (named.fields.input, named.fields.label, named.template) == (("text",), "label", "{text}")
    plain = write(tmp_path / "plain.jsonl", [{"text": "a row", "label": "a"}])
    assert DataOptions().eval_task(plain, trained).fields.input == ("text",)
    (cell,) = preface.evaluate(own.folder, on=[file])
    assert cell.n == 3


def test_labels_that_were_not_trained(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"text": f"row {i}", "label": i % 2} for i in range(6)])
    with pytest.raises(UserError, match=r"mine\.jsonl line 1"):
        preface.evaluate(run, on=[str(file)])
    one = write(tmp_path / "one.jsonl", [{"text": f"row {i}", "label": "positive"} for i in range(6)])
    assert preface.evaluate(run, on=[str(one)], prompts="best")[0].n == 6


def test_rows_that_were_trained_on(nano: Backbone, data_file: Path, tmp_path: Path, capsys: Any) -> None:
    own = preface.train(
        nano, data_file, PromptTuning(length=1), label_words=WORDS, out=tmp_path / "r", steps=1, learning_rates=[0.1]
    )
    preface.evaluate(own, on=[str(data_file)], label_words=WORDS)
    assert "those that the prompt was trained on" in capsys.readouterr().err.replace("\n", " ")


def test_a_prompt_that_does_not_fit(run: Run, tiny: Backbone) -> None:
    with pytest.raises(UserError, match="does not fit"):
        preface.evaluate(run, on=["posts"], backbone=tiny)


def test_a_question_after_a_long_text_is_asked(nano: Backbone, tmp_path: Path) -> None:
    data = tmp_path / "long.csv"
    data.write_text("text,label\n" + "".join(f"{'it goes on and on ' * 40}{i},{i % 2}\n" for i in range(4)))

    def probabilities(instruction: str) -> str:
        out = tmp_path / "out"
        words = {"0": "negative", "1": "positive"}
        (cell,) = preface.evaluate(
            None, [data], backbone=nano, instruction=instruction, label_words=words, max_input_tokens=40, out=out
        )
        assert cell.details["cut_inputs"] == 4
        return next(out.glob("*.jsonl")).read_text()

    assert probabilities("{text} Is it good?") != probabilities("{text} What language is it?")


def test_other_weights_are_refused_unless_named(
    run: Run, nano: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run.folder, changed)
    for card in (changed / "prompt", *(changed / "prompts").iterdir()):
        saved = load_prompt(card)
        save_prompt(card, saved.prompts, saved.card.model_copy(update={"fingerprint": "another"}))
    run.record.model_copy(update={"fingerprint": "another"}).write(changed)
    for use in (
        lambda **named: preface.evaluate(changed, ["posts"], dtype="float32", **named),
        lambda **named: list(preface.predict(changed, ["a text"], dtype="float32", **named)),
    ):
        with pytest.raises(UserError, match=r"trained on other weights of nano .* name a backbone with --backbone"):
            use()
        assert use(backbone="nano")
        assert "trained on other weights" in capsys.readouterr().err.replace("\n", " ")


def test_a_prompt_from_elsewhere_reads_nothing_outside_the_data_folder(
    nano: Backbone, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = write(tmp_path / "private.jsonl", [{"text": f"{i}", "label": "yn"[i % 2]} for i in range(9)])
    words = {"y": "positive", "n": "negative"}
    saved = load_prompt(run.folder)
    card = saved.card.model_copy(update={"task": load_task(private, label_words=words)})
    save_prompt(tmp_path / "gift", saved.prompts, card)
    with pytest.raises(UserError, match=r"private\.jsonl"):
        preface.evaluate(tmp_path / "gift", backbone=nano)
    assert preface.evaluate(tmp_path / "gift", [private], label_words=words, backbone=nano)[0].n == 9
    capsys.readouterr()
    assert preface.evaluate(run.folder / "prompt", backbone=nano)[0].eval_task == "film"
    assert "film_test.jsonl" in capsys.readouterr().err.replace("\n", "")


def test_cells_say_what_was_confused_and_how_sure_they_are(run: Run) -> None:
    (cell,) = preface.evaluate(run, on=["posts"], prompts="best")
    counts = cell.details["confusion"]
    assert sum(n for row in counts.values() for n in row.values()) == cell.n
    assert sum(counts[word].get(word, 0) for word in counts) == round(cell.value * cell.n)
    low, high = cell.details["interval"]
    assert 0 <= low < cell.value < high <= 1


def test_intervals_are_wilson_s() -> None:
    # Brown, Cai and DasGupta 2001 give the formula; R's prop.test(45, 50, correct = FALSE) these numbers
    assert wilson(0.9, 50) == pytest.approx((0.78640, 0.95653), abs=1e-4)
    assert wilson(1.0, 10)[1] == 1.0


def test_confusions_name_what_is_no_label() -> None:
    assert confusion(["a", "a", "b"], ["a", "nonsense", "a"], ["a", "b", "c"]) == {
        "a": {"a": 1, "(none of the labels)": 1},
        "b": {"a": 1},
    }


def test_an_unknown_option(run: Run) -> None:
    with pytest.raises(UserError, match=r"prompt: there is no such option, did you mean prompts\?"):
        preface.evaluate(run, prompt="best")


def test_unfinished_and_absent_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run's folder"):
        preface.evaluate(tmp_path, on=["posts"])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        preface.evaluate(tmp_path, on=["posts"])


@pytest.mark.parametrize("option", [{"instruction": "sentiment: {text}"}, {"cue": "Verdict:"}])
def test_what_a_prompt_would_not_hear_is_refused(run: Run, option: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(option))}: is for the bare backbone"):
        preface.evaluate(run, on=["posts"], **option)


def test_another_file_of_the_same_name_replaces_nothing(run: Run, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, count in ((one, 4), (other, 6)):
        folder.mkdir()
        write(folder / "mine.jsonl", [{"text": f"row {i}", "label": "positive"} for i in range(count)])
    out = tmp_path / "out"
    preface.evaluate(run, on=[one / "mine.jsonl"], prompts="best", out=out)
    with pytest.raises(UserError, match=r"has scores on another mine\.jsonl .*--out of its own"):
        preface.evaluate(run, on=[other / "mine.jsonl"], prompts="best", out=out)
    shutil.copy(one / "mine.jsonl", other / "mine.jsonl")  # moved, and the same
    preface.evaluate(run, on=[other / "mine.jsonl"], prompts="best", out=out)
    assert [cell.n for cell in read_cells(out / "results.json")] == [4]


def test_how_texts_were_cut_and_asked_tells_scores_apart(nano: Backbone, tmp_path: Path) -> None:
    for options in ({}, {"max_input_tokens": 40}, {"cue": "Verdict:"}):
        preface.evaluate(on=["film"], backbone=nano, out=tmp_path, **options)
    cells = read_cells(tmp_path / "results.json")
    assert [cell.details.get("max_input_tokens") for cell in cells] == [None, 40, None]
    assert len({cell.details["predictions"] for cell in cells}) == len(list(tmp_path.glob("*.jsonl"))) == 3


def test_a_mixture_is_evaluated_on_with_a_prompt_as_without(nano: Backbone, data_file: Path, tmp_path: Path) -> None:
    mixture, method = f"film+{data_file}", PrefixTuning(length=2)
    run = preface.train(nano, mixture, method, out=tmp_path, learning_rates=[0.01], steps=1, batch_size=4)
    (cell,) = preface.evaluate(run, on=[mixture])
    assert cell.eval_task == f"film+{data_file.name}"

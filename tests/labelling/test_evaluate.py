from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.metric import metric
from preface.methods import PrefixTuning, PromptTuning
from preface.records.results import read_cells
from preface.records.run import Run

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


def test_the_own_task_is_the_default(run: Run) -> None:
    assert {cell.eval_task for cell in preface.evaluate(run, prompts="best")} == {"film"}


def test_zero_shot_is_the_bare_backbone(nano: Backbone) -> None:
    (cell,) = preface.evaluate(on=["film"], backbone=nano)
    assert (cell.method, cell.train_task, cell.trained_parameters, cell.seed) == ("zero-shot", None, 0, None)
    assert cell.value > 0.7  # it was pre-trained on the sentiment of reviews, asked in these words


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


WORD = st.sampled_from(["a", "b", "c", "elsewhere"])


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=30))
def test_metrics_are_scikit_learn_s(rows: list[tuple[str, str]]) -> None:
    gold, said = (list(column) for column in zip(*rows, strict=True))
    assert metric("accuracy", gold, said) == pytest.approx(accuracy_score(gold, said))
    wanted = f1_score(gold, said, average="macro", labels=sorted(set(gold)), zero_division=0)
    assert metric("macro_f1", gold, said) == pytest.approx(wanted)


def test_an_unknown_metric() -> None:
    with pytest.raises(UserError, match="accuracy, macro_f1"):
        metric("bleu", ["a"], ["a"])


def test_unfinished_and_absent_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run's folder"):
        preface.evaluate(tmp_path, on=["posts"])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        preface.evaluate(tmp_path, on=["posts"])


def test_predicts_in_order_with_bounded_memory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'long ' * (i % 7)} film {i}" for i in range(23)]
    file = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    whole = list(preface.predict(run, file))
    assert [line["line"] for line in whole] == list(range(1, 24))
    monkeypatch.setattr("preface.labelling.predict.CHUNK", 5)
    read = []
    from preface.labelling import predict as prediction

    stream = prediction.iter_examples
    monkeypatch.setattr(
        prediction, "iter_examples", lambda *a, **k: (read.append(1) or item for item in stream(*a, **k))
    )
    parts = preface.predict(run.folder, file)
    first = next(parts)
    assert len(read) == 5  # no more was read than the first chunk
    for one, other in zip([first, *parts], whole, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_a_bad_row_ends_the_stream_after_those_before_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n{"text": ""}\n{"text": "four"}\n')
    stream = preface.predict(run, file)
    assert [next(stream)["line"] for _ in range(2)] == [1, 2]
    with pytest.raises(UserError, match=r"rows.jsonl line 3"):
        next(stream)
    skipped: list[str] = []
    kept = preface.predict(run, file, skip_bad_rows=True, on_skip=skipped.append)
    assert [line["line"] for line in kept] == [1, 2, 4]
    assert len(skipped) == 1


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

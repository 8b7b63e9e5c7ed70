from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

import preface
from preface.backbones.base import Backbone, weights_hash
from preface.cli.train import run_table
from preface.errors import UserError
from preface.labelling.labeller import Labeller, Prediction
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.records.card import Member
from preface.records.run import Run
from preface.tasks import load_task
from preface.tasks.metric import majority
from preface.terminal.interrupt import Interrupted
from preface.tuning import loop, population
from preface.tuning import train as verb
from preface.tuning.finish import rate_summary, warn_of
from preface.tuning.recipe import Recipe, recipe_from
from preface.tuning.step import member_losses, shares_of

METHOD = PrefixTuning(length=3)
DECODER = PrefixTuning(length=3, sites=("decoder", "cross"))
RECIPE: dict[str, Any] = {
    "learning_rates": [0.02, 0.2],
    "seeds": 2,
    "steps": 12,
    "evaluate_every": 4,
    "batch_size": 8,
}
WORDS = {"label_words": {"yes": "positive", "no": "negative"}}


def train(backbone: Backbone, task: Path | None, out: Path | None = None, **changes: Any) -> Run:
    fields = {
        "method": METHOD,
        **WORDS,
        "out": out,
        **RECIPE,
        **changes,
    }
    return preface.train(backbone, task, fields.pop("method"), **fields)


def prompts(run: Run) -> list[dict[str, torch.Tensor]]:
    return [run.prompt(member.index).prompts.tensors_of(0) for member in run.members]


def losses(run: Run) -> list[list[float]]:
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [line["losses"] for line in lines if "losses" in line]


def assert_same(one: Run, two: Run) -> None:
    for mine, theirs in zip(prompts(one), prompts(two), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one.members == two.members
    assert losses(one) == losses(two)
    assert (one.folder / "predictions.jsonl").read_text() == (two.folder / "predictions.jsonl").read_text()


@pytest.fixture(autouse=True)
def a_line_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.fixture
def finished(tiny: Backbone, data_file: Path, tmp_path: Path) -> Run:
    return train(tiny, data_file, tmp_path / "run")


@pytest.mark.precision
def test_a_population_learns_and_leaves_its_record(tiny: Backbone, finished: Run) -> None:
    record = finished.record
    assert [(member.learning_rate, member.seed) for member in finished.members] == [
        (0.02, 0),
        (0.02, 1),
        (0.2, 0),
        (0.2, 1),
    ]
    assert finished.best.score == max(member.score for member in finished.members)
    assert record.fingerprint == tiny.fingerprint
    assert record.label_words == ("positive", "negative")
    assert record.splits.train.sources[0].sha256
    assert record.splits.train.rows + record.splits.validation.rows == 60
    assert record.recipe["steps"] == 12
    assert record.command is None  # it is Python that calls
    assert record.versions["torch"] == torch.__version__.split("+")[0] or record.versions["torch"]
    assert finished.result.trained_parameters == METHOD.counts(tiny).trained
    assert len((finished.folder / "predictions.jsonl").read_text().splitlines()) == record.splits.validation.rows
    assert finished.prompt().prompts.tensors_of(0).keys() == prompts(finished)[finished.best.index].keys()
    first, last = losses(finished)[0], losses(finished)[-1]
    assert min(last) < min(first)


@pytest.mark.precision
def test_the_backbone_is_the_same_before_and_after(tiny: Backbone, data_file: Path, tmp_path: Path) -> None:
    before = weights_hash(tiny, torch.float32)
    train(tiny, data_file, tmp_path / "run", steps=3)
    train(
        tiny,
        data_file,
        tmp_path / "other",
        steps=3,
        method=PromptTuning(length=2),
        optimizer="adafactor",
        dropout=0.1,
    )
    assert weights_hash(tiny, torch.float32) == before


@pytest.mark.precision
def test_a_member_trains_as_it_would_alone(tiny: Backbone, data_file: Path, finished: Run, tmp_path: Path) -> None:
    alone = train(tiny, data_file, tmp_path / "alone", learning_rates=[0.2], seeds=[1])
    near = {"rel": 0.03} if tiny.dtype == torch.bfloat16 else {"rel": 1e-3, "abs": 1e-4}
    for mine, theirs in zip(losses(alone), losses(finished), strict=True):
        assert mine[0] == pytest.approx(theirs[3], **near)


@pytest.mark.precision
@pytest.mark.parametrize(("dropout", "method"), [(0.0, METHOD), (0.2, METHOD), (0.0, DECODER), (0.2, DECODER)], ids=str)
def test_interrupted_and_resumed_ends_bit_for_bit_as_uninterrupted(
    tiny: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, method: Method
) -> None:
    tiny.kept.clear()  # another sitting has encoded nothing
    whole = train(tiny, data_file, tmp_path / "whole", dropout=dropout, method=method)
    step = population.Population.step
    for stop_at in (5, 9):  # in the middle of a stretch, and again

        def press(self, number, done, stop_at=stop_at):
            if number == stop_at:
                signal.raise_signal(signal.SIGINT)
            return step(self, number, done)

        monkeypatch.setattr(population.Population, "step", press)
        tiny.kept.clear()
        begun = {"task": data_file, "method": method, "out": tmp_path / "part", "dropout": dropout, **RECIPE, **WORDS}
        with pytest.raises(Interrupted, match="--resume"):
            preface.train(tiny, **(begun if stop_at == 5 else {"resume": tmp_path / "part"}))
        torch.rand(7)  # what happens between two sittings must not matter
    monkeypatch.setattr(population.Population, "step", step)
    tiny.kept.clear()
    assert_same(preface.train(tiny, resume=tmp_path / "part"), whole)


@pytest.mark.parametrize("damage", [False, True])
def test_killed_and_resumed_ends_bit_for_bit_as_uninterrupted(
    checkpoint_folder: Path, data_file: Path, tmp_path: Path, damage: bool
) -> None:
    """A kill loses what came after the last checkpoint, a damaged checkpoint what came after the one before."""
    script = (
        "import sys, preface, preface.tuning.loop as loop, preface.tuning.population as t\n"
        "from tests.tuning.test_train import METHOD, RECIPE\n"
        "import time; loop.LOG_EVERY = 1; loop.CHECKPOINT_SECONDS = 0.0\n"
        "step = t.Population.step\n"
        "def slow(self, number, done):\n"
        "    time.sleep(0.2 if number > 2 and sys.argv[3] == 'slow' else 0)\n"
        "    return step(self, number, done)\n"
        "t.Population.step = slow\n"
        "preface.train(preface.load_backbone(sys.argv[1]), sys.argv[2], METHOD, out=sys.argv[4],"
        " label_words={'yes': 'positive', 'no': 'negative'}, **RECIPE)\n"
    )
    command = [sys.executable, "-c", script, str(checkpoint_folder), str(data_file)]
    subprocess.run([*command, "fast", str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*command, "slow", str(tmp_path / "part")], stderr=subprocess.DEVNULL)
    states = tmp_path / "part" / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(states.glob("step-*[4-9]"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert Run(tmp_path / "part").record.result is None
    if damage:
        newest = max(states.glob("step-*")) / "state.safetensors"
        newest.write_bytes(newest.read_bytes()[:-100])
    resumed = preface.train(resume=tmp_path / "part")
    assert_same(resumed, Run(tmp_path / "whole"))


def test_resume_refuses_other_data_and_finished_runs(
    tiny: Backbone, nano: Backbone, data_file: Path, finished: Run, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="finished already"):
        preface.train(tiny, resume=finished.folder)
    with pytest.raises(UserError, match="nothing to resume"):
        preface.train(tiny, resume=tmp_path / "none")
    with pytest.raises(UserError, match="a run is there already"):
        train(tiny, data_file, finished.folder)
    with pytest.raises(UserError, match=r"holds something else already \(its prompt.json\); give another --out"):
        train(tiny, data_file, finished.folder / "prompt")
    finished.record.model_copy(update={"result": None}).write(finished.folder)
    with pytest.raises(UserError, match="other weights"):
        preface.train(nano, resume=finished.folder)
    data_file.write_text(data_file.read_text() + '{"text": "one more", "label": "yes"}\n')
    with pytest.raises(UserError, match="has changed since"):
        preface.train(tiny, resume=finished.folder)


def unfinish(run: Run, **changes: Any) -> Path:
    """As if it had been interrupted, and begun otherwise."""
    run.record.model_copy(update={"result": None, **changes}).write(run.folder)
    return run.folder


def test_resume_goes_on_as_the_run_was_begun(tiny: Backbone, data_file: Path, finished: Run) -> None:
    folder = unfinish(finished, dtype="bfloat16")
    for wrong in ({}, {"dtype": "float32"}):
        with pytest.raises(UserError, match=r"dtype: .* was begun in bfloat16 and would not end the same in float32"):
            preface.train(tiny, resume=folder, **wrong)
    with pytest.raises(UserError, match="begun in bfloat16"):
        preface.train(resume=folder, dtype="float32")
    unfinish(finished, device="cuda:0")
    with pytest.raises(UserError, match=r"device: .* was begun in cuda"):
        preface.train(tiny, resume=folder)
    unfinish(finished, recipe=finished.record.recipe | {"clip": -1})
    with pytest.raises(UserError, match=r"run\.json: damaged, or of another version \(clip"):
        preface.train(tiny, resume=folder)


@pytest.mark.parametrize(("begun", "elsewhere"), [("bfloat16", "float32"), ("float32", "bfloat16")])
@pytest.mark.parametrize("called", ["in Python", "on the command line"])
def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    begun: str,
    elsewhere: str,
    called: str,
    checkpoint_folder: Path,
    data_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever `auto` is where it is resumed, and without being told."""
    fields = {"label_words": WORDS["label_words"], **RECIPE, "dtype": begun, "device": "cpu"}
    whole = preface.train(checkpoint_folder, data_file, METHOD, out=tmp_path / "whole", **fields)
    step = population.Population.step

    def press(self: Any, number: int, done: float) -> int:
        if number == 5:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, done)

    with monkeypatch.context() as patch:
        patch.setattr(population.Population, "step", press)
        with pytest.raises(Interrupted):
            preface.train(checkpoint_folder, data_file, METHOD, out=tmp_path / "part", **fields)
    monkeypatch.setenv("PREFACE_DTYPE", elsewhere)
    if called == "in Python":
        preface.train(resume=tmp_path / "part")
    else:
        command = [sys.executable, "-m", "preface", "train", "--resume", str(tmp_path / "part")]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    resumed = Run(tmp_path / "part")
    assert resumed.record.dtype == begun
    assert resumed.members == whole.members
    for mine, theirs in zip(prompts(resumed), prompts(whole), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_begun_in_bfloat16_takes_no_float32_backbone(
    checkpoint_folder: Path, data_file: Path, tmp_path: Path, tiny_float32: Backbone
) -> None:
    run = preface.train(checkpoint_folder, data_file, METHOD, out=tmp_path / "run", steps=1, dtype="bfloat16", **WORDS)
    with pytest.raises(UserError, match=r"^dtype: .* was begun in bfloat16 and would not end the same in float32"):
        preface.train(tiny_float32, resume=unfinish(run))


@pytest.mark.parametrize(
    "given",
    [
        {"task": "film"},
        {"method": "prompt-tuning"},
        {"out": "elsewhere"},
        {"train_rows": 3},
        {"steps": 9},
        {"learning_rates": [0.1]},
        {"clip": None},
        {"label_words": {"yes": "good"}},
        {"skip_bad_rows": True},
        {"track": "tensorboard"},
    ],
    ids=str,
)
def test_resume_takes_no_other_settings(tiny: Backbone, finished: Run, given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(UserError, match=f"resume: .* give no {name.replace('_', '-')}$"):
        preface.train(tiny, resume=unfinish(finished), **given)


def test_an_unknown_option(tiny: Backbone) -> None:
    with pytest.raises(
        UserError, match=r"step: there is no such option, did you mean steps\? There are learning_rates"
    ):
        preface.train(tiny, "film", step=3)


def test_a_loaded_backbone_has_its_precision(tiny: Backbone) -> None:
    with pytest.raises(UserError, match=r"dtype bfloat16: the backbone .* is loaded already, as float32"):
        preface.train(tiny, "film", dtype="bfloat16")


def test_a_run_finds_its_backbone_from_elsewhere(
    checkpoint_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint_folder.parent)
    run = preface.train(
        checkpoint_folder.name, data_file, METHOD, out=tmp_path / "run", steps=1, learning_rates=[0.1], dtype="float32"
    )
    assert run.record.backbone == str(checkpoint_folder.resolve())
    assert run.prompt().card.backbone == str(checkpoint_folder.resolve())
    monkeypatch.chdir(tmp_path)
    assert len(list(preface.predict(tmp_path / "run", data_file, dtype="float32"))) == 60


def test_a_second_process_in_the_folder_is_refused(
    tiny: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, refused = population.Population.step, []

    def with_another(self: Any, number: int, done: float) -> Any:
        if not refused:
            with pytest.raises(UserError, match="another process is at work there") as caught:
                preface.train(tiny, resume=tmp_path / "run")
            refused.append(caught)
        return step(self, number, done)

    monkeypatch.setattr(population.Population, "step", with_another)
    train(tiny, data_file, tmp_path / "run", steps=2)
    assert refused


def test_a_full_disk_at_the_end_loses_nothing(
    tiny: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    fsync, full = os.fsync, [False]

    def sync(number: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    finish = verb.finish

    def late(*arguments: Any) -> None:
        full[0] = True
        finish(*arguments)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(verb, "finish", late)
    with pytest.raises(OSError, match="No space left") as caught:
        train(tiny, data_file, tmp_path / "run")
    assert caught.value.filename == str(tmp_path / "run" / "prompts" / "00")
    monkeypatch.undo()
    whole = train(tiny, data_file, tmp_path / "whole")
    assert preface.train(tiny, resume=tmp_path / "run").members == whole.members


def test_early_stopping_is_each_member_s_own(tiny: Backbone, data_file: Path, tmp_path: Path) -> None:
    changes = {"learning_rates": [1e-12, 0.003, 0.2], "seeds": 1, "steps": 40, "evaluate_every": 2, "patience": 2}
    run = train(tiny, data_file, tmp_path / "run", **changes)
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    evaluations = [line for line in lines if "member" in line]
    lengths = set()
    for member in range(3):
        mine = [(each["dev_score"], -each["dev_loss"]) for each in evaluations if each["member"] == member]
        stale, best = 0, mine[0]
        for place, now in enumerate(mine[1:], start=1):
            stale, best = (0, now) if now > best else (stale + 1, best)
            assert (stale == 2) == (place == len(mine) - 1) or place == 20
        lengths.add(len(mine))
    assert min(lengths) < 21


def scored(score: float) -> Member:
    return Member(index=0, learning_rate=0.1, seed=0, score=score, loss=0.5, step=1)


def test_warns_of_what_a_number_hides(
    tiny: Backbone, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of([Prediction("b", None)] * 3, scored(2 / 3), 2 / 3, "accuracy")
    assert "predicts 'b' for every development row" in capsys.readouterr().err.replace("\n", " ")
    warn_of([Prediction(word, None) for word in "bba"], scored(2 / 3), 2 / 3, "accuracy")
    assert "no better than always naming the commonest" in capsys.readouterr().err.replace("\n", " ")
    # at a rate of nothing, no evaluation is better than the first
    train(tiny, data_file, tmp_path / "still", learning_rates=[1e-30], seeds=1)
    assert "the best prompt is one that was not trained yet" in capsys.readouterr().err.replace("\n", " ")
    run = train(tiny, data_file, tmp_path / "wild", learning_rates=[1e38, 0.02], seeds=1, clip=None)
    assert "not finite" in capsys.readouterr().err.replace("\n", " ")
    assert all(torch.isfinite(tensor).all() for prompt in prompts(run) for tensor in prompt.values())


def test_over_long_inputs_are_cut_and_counted(
    tiny: Backbone, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny, data_file, tmp_path / "run", steps=1, max_input_tokens=10)
    assert run.result.cut_inputs["train"] > 0
    assert "were cut to 10 tokens" in capsys.readouterr().err


def test_train_rows_and_token_budget(tiny: Backbone, data_file: Path, tmp_path: Path) -> None:
    run = train(tiny, data_file, tmp_path / "run", steps=2, train_rows=20, batch_size=None, token_budget=64)
    assert run.record.splits.train.rows == 20


def test_a_look_that_finds_no_memory_is_taken_again(
    tiny: Backbone, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once what recorded steps hold is free."""
    freed, calls = [], []
    label_each = Labeller.label_each

    def short(*arguments: Any) -> Any:
        calls.append(len(freed))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return label_each(*arguments)

    monkeypatch.setattr(Labeller, "label_each", short)
    monkeypatch.setattr(population.Step, "forget", lambda step: freed.append(step))
    train(tiny, data_file, tmp_path / "run", steps=1)
    assert len(freed) == 1
    assert calls[:2] == [0, 1]


def test_member_losses_are_transformers_own(tiny: Backbone) -> None:
    logits = torch.randn(4, 3, 11)
    labels = torch.randint(0, 11, (4, 3))
    labels[0, 2] = -100
    pieces = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    owners = torch.tensor([0, 2, 2, 0])
    losses = member_losses(pieces.view_as(labels), owners, shares_of(labels, owners, 3), 3)
    for member, rows in ((0, [0, 3]), (2, [1, 2])):
        expected = torch.nn.CrossEntropyLoss(ignore_index=-100)(logits[rows].flatten(0, 1), labels[rows].flatten())
        torch.testing.assert_close(losses[member], expected)
    assert losses[1] == 0


def test_recipe_defaults_and_mistakes() -> None:
    assert recipe_from({}, (0.1,)).resolve(13).steps == 300
    assert recipe_from({}, (0.1,)).resolve(63).steps == 945
    assert recipe_from({"epochs": 2.5}, (0.1,)).resolve(7).steps == 18
    assert recipe_from({"token_budget": 99}, (0.1,)).batch_size is None
    lester = recipe_from({"optimizer": "adafactor"}, (0.1,))
    assert (lester.learning_rates, lester.schedule, lester.weight_decay) == ((0.3,), "constant", 1e-5)
    assert Recipe(learning_rates=(1, 2, 1), seeds=3).members == [
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    for wrong in (
        {"learning_rates": []},
        {"learning_rates": [-1]},
        {"steps": 0},
        {"optimizer": "sgd"},
        {"colour": 1},
    ):
        with pytest.raises(UserError):
            recipe_from(wrong, (0.1,))


def test_summaries() -> None:
    members = [
        Member(i, rate, seed, score, 0.5, 1)
        for i, (rate, seed, score) in enumerate([(1, 0, 0.5), (1, 1, 0.7), (2, 0, 0.9)])
    ]
    first, second = rate_summary(members)
    assert first.mean == pytest.approx(0.6)
    assert first.deviation == pytest.approx(0.02**0.5)
    assert second.deviation is None


def test_a_macro_f1_is_compared_with_a_macro_f1(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nine rows of ten have one label, naming it always gives an accuracy of 0.9 and a macro-F1 of 0.474."""
    gold, said = ["a"] + ["b"] * 9, [Prediction(word, None) for word in "aaaabbbbbb"]
    warn_of(said, scored(0.6), majority("macro_f1", gold), "macro_f1")
    assert not capsys.readouterr().err
    warn_of(said, scored(0.6), majority("accuracy", gold), "accuracy")
    assert "the best development accuracy, 0.600, is no better" in capsys.readouterr().err.replace("\n", " ")


def test_result_and_table_name_the_metric(tiny: Backbone, tmp_path: Path) -> None:
    words = ("good", "good", "bad")
    lines = [json.dumps({"text": f"the {word} thing {i}", "label": word}) for i in range(20) for word in words]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    task = load_task(tmp_path / "rows.jsonl").model_copy(update={"metric": "macro_f1"})
    run = preface.train(tiny, task, METHOD, out=tmp_path / "run", **RECIPE | {"steps": 1})
    gold = [json.loads(line)["gold"] for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    commonest = max(gold, key=gold.count)
    expected = f1_score(gold, [commonest] * len(gold), average="macro")
    assert run.result.majority == pytest.approx(expected)
    assert "Macro-F1 in percent" in str(run_table(run).caption)

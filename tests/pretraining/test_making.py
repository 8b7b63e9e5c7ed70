"""Backbones from scratch and from others: what is in the folder, exact resuming, several processes, keep-out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import preface
from preface.errors import UserError
from preface.pretraining import building, making
from preface.pretraining.weights import Weights
from preface.records.metrics import read_metrics
from preface.tasks import load_split
from preface.terminal.command import at_work
from preface.terminal.interrupt import Interrupted

SMALL: dict[str, Any] = {
    "numbers": {"d_model": 16, "layers": 1, "d_kv": 8, "d_ff": 16, "tie_embeddings": True},
    "input_length": 32,
    "batch_size": 4,
    "validate_every": 4,
    "dtype": "float32",
    "device": "cpu",
}
MIXED = {"span-corruption": 0.5, "prefix-lm": 0.3, "instructions": 0.2}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_times(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(folder)]


@pytest.fixture(scope="module")
def made(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps of all objectives with dropout, uninterrupted."""
    out = tmp_path_factory.mktemp("made") / "straight"
    return preface.pretrain(
        tokens_folder, out, objectives=MIXED, tasks=["film"], steps=12, dropout=0.1, probes=(), **SMALL
    )


def test_the_folder_loads_everywhere(made: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert model.dtype == torch.bfloat16
    assert tokenizer("a film")["input_ids"][-1] == model.config.eos_token_id
    assert model.config.dropout_rate == 0  # what was used to train is no property of the model
    backbone = preface.load_backbone(made)
    assert backbone.width == 16


def test_it_says_what_it_is(made: Path) -> None:
    record = json.loads((made / "backbone.json").read_text())
    assert record["seen_tasks"] == ["film"] == AutoModelForSeq2SeqLM.from_pretrained(made).config.preface_seen_tasks
    assert record["result"]["steps"] == 12
    assert record["settings"]["seed"] == 0
    assert record["versions"]["torch"]
    card = (made / "README.md").read_text()
    for words in ("trained from scratch", "**labelled examples** of film", "/film.txt`", "| validation loss, noise |"):
        assert words in card
    assert (made / "loss.png").stat().st_size > 10_000
    assert not (made / "checkpoints").exists()


def test_the_card_shows_the_command_if_one_made_it(made: Path, tokens_folder: Path, tmp_path: Path) -> None:
    assert json.loads((made / "backbone.json").read_text())["command"] is None
    assert "```sh" not in (made / "README.md").read_text()
    with at_work(["pretrain", "--out", "my backbone"]):
        out = preface.pretrain(tokens_folder, tmp_path / "out", steps=1, **SMALL)
    assert "```sh\npreface pretrain --out 'my backbone'\n```\n" in (out / "README.md").read_text()


def test_losses_are_told_apart(made: Path) -> None:
    lines = read_metrics(made)
    evaluations = [line["validation"] for line in lines if "validation" in line]
    assert [line["step"] for line in lines if "validation" in line] == [0, 4, 8, 12]
    assert set(evaluations[0]) == {"span-corruption", "noise", "prefix-lm", "instructions"}
    assert evaluations[-1]["span-corruption"] < evaluations[0]["span-corruption"]
    trained = [line["train"] for line in lines if "train" in line]
    assert {name for train in trained for name in train} == set(MIXED)
    assert all(line["tokens"] > 0 for line in lines[1:])


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Weights.step

    def press(self: Weights, number: int, done: float) -> int:
        tokens = original(self, number, done)
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return tokens

    monkeypatch.setattr(Weights, "step", press)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    made: Path, tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt_after(7, patch)
        with pytest.raises(Interrupted, match="preface pretrain --resume"):
            preface.pretrain(tokens_folder, out, objectives=MIXED, tasks=["film"], steps=12, dropout=0.1, **SMALL)
    with pytest.raises(UserError, match="is there already and not empty; `--resume"):
        preface.pretrain(tokens_folder, out, steps=12, **SMALL)
    making.resume(out)
    assert equal(made, out)
    assert without_times(made) == without_times(out)


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(made: Path, tokens_folder: Path, tmp_path: Path) -> None:
    """kill -9 between two steps, and the newest checkpoint torn: the one before it serves, and the end is the same."""
    out = tmp_path / "killed"
    code = f"""
import os, signal, preface
from preface.pretraining.weights import Weights
from preface.tasks import load_split
step = Weights.step
def die(self, number, done):
    tokens = step(self, number, done)
    if number + 1 == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return tokens
Weights.step = die
preface.pretrain({str(tokens_folder)!r}, {str(out)!r}, objectives={MIXED!r}, tasks=["film"], steps=12, dropout=0.1,
    checkpoint_seconds=0, **{SMALL!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    kept = sorted((out / "checkpoints").glob("step-*"))
    assert [path.name for path in kept] == ["step-00000007", "step-00000008"]
    blob = (kept[-1] / "state.safetensors").read_bytes()
    (kept[-1] / "state.safetensors").write_bytes(blob[: len(blob) // 2])
    making.resume(out)
    assert equal(made, out)
    assert without_times(made) == without_times(out)


def test_a_second_process_in_the_folder_is_refused(
    tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, refused = Weights.step, []

    def with_another(self: Weights, number: int, done: float) -> int:
        if not refused:
            with pytest.raises(UserError, match="another process is at work there") as caught:
                making.resume(tmp_path / "out")
            refused.append(caught)
        return step(self, number, done)

    monkeypatch.setattr(Weights, "step", with_another)
    preface.pretrain(tokens_folder, tmp_path / "out", steps=2, **SMALL)
    assert refused


def test_minutes_end_with_a_finished_schedule(tokens_folder: Path, tmp_path: Path) -> None:
    rates = []

    class Watched(Weights):
        def step(self, number: int, done: float) -> int:
            rates.append(done)
            return super().step(number, done)

    making.Weights = Watched  # type: ignore[misc]
    try:
        began = time.monotonic()
        preface.pretrain(tokens_folder, tmp_path / "timed", minutes=0.05, **SMALL)
        assert 3 <= time.monotonic() - began < 60
    finally:
        making.Weights = Weights  # type: ignore[misc]
    assert rates == sorted(rates)
    assert 0.5 < rates[-1] < 1  # the last step began before the end


def test_a_budget_of_tokens(tokens_folder: Path, tmp_path: Path) -> None:
    folder = preface.pretrain(tokens_folder, tmp_path / "counted", budget_tokens=4 * 32 * 5 - 1, **SMALL)
    assert json.loads((folder / "backbone.json").read_text())["result"]["steps"] == 5


def first_gradients(folder: Path) -> dict[str, torch.Tensor]:
    """What the optimizer got in the first step, by the weight's place, after averaging over parts and processes."""
    return load_file(folder.with_suffix(".gradients"))


KEEP_GRADIENTS = """
from safetensors.torch import save_file
from preface.pretraining.optimizer import ScaledAdamW
def keep(path):
    step = ScaledAdamW.step
    def kept(self, rate):
        if not path.exists():
            save_file({str(place): weight.grad.clone() for place, weight in enumerate(self.parameters)}, path)
        step(self, rate)
    ScaledAdamW.step = kept
    return lambda: setattr(ScaledAdamW, "step", step)
"""


def pretrain_keeping_gradients(tokens: Path, out: Path, **settings: Any) -> Path:
    scope: dict[str, Any] = {}
    exec(KEEP_GRADIENTS, scope)
    undo = scope["keep"](out.with_suffix(".gradients"))
    try:
        return preface.pretrain(tokens, out, **SMALL | {"steps": 2, "clip": None, "warmup": 0} | settings)
    finally:
        undo()


def assert_close_gradients(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    first, second = first_gradients(one), first_gradients(other)
    assert max(float(gradient.abs().max()) for gradient in first.values()) > 1e-3
    for place, gradient in first.items():
        torch.testing.assert_close(
            gradient, second[place], rtol=tolerance, atol=tolerance * float(gradient.abs().max())
        )


def test_micro_batches_add_up_to_the_whole(tokens_folder: Path, tmp_path: Path) -> None:
    whole = pretrain_keeping_gradients(tokens_folder, tmp_path / "whole")
    parts = pretrain_keeping_gradients(tokens_folder, tmp_path / "parts", micro_batch_size=3)
    assert_close_gradients(whole, parts)


def test_two_processes_do_what_one_does(tokens_folder: Path, tmp_path: Path) -> None:
    """The same gradients, also in parts; losses summed over both; and they stop and go on together."""
    alone = pretrain_keeping_gradients(tokens_folder, tmp_path / "alone")
    script = tmp_path / "train.py"
    arguments = SMALL | {"steps": 2, "clip": None, "warmup": 0, "micro_batch_size": 1}
    script.write_text(
        KEEP_GRADIENTS + "import pathlib, preface\n"
        f"keep(pathlib.Path({str(tmp_path / 'two.gradients')!r}))\n"
        f"preface.pretrain({str(tokens_folder)!r}, {str(tmp_path / 'two')!r}, **{arguments!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    assert json.loads((tmp_path / "two" / "backbone.json").read_text())["processes"] == 2
    assert_close_gradients(alone, tmp_path / "two")
    one, other = without_times(alone), without_times(tmp_path / "two")
    assert one[-2]["train"] == {"span-corruption": pytest.approx(other[-2]["train"]["span-corruption"], rel=1e-4)}


def test_processes_share_evenly_or_not_at_all(tokens_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    class Three:
        num_processes = 3

    monkeypatch.setattr(building, "Accelerator", lambda **_: Three())
    with pytest.raises(UserError, match="4 sequences cannot be shared evenly by 3 processes"):
        preface.pretrain(tokens_folder, tmp_path / "out", steps=1, **SMALL)


def test_bfloat16_computes_about_the_same(tokens_folder: Path, tmp_path: Path) -> None:
    exact = pretrain_keeping_gradients(tokens_folder, tmp_path / "float32")
    rounded = pretrain_keeping_gradients(tokens_folder, tmp_path / "bfloat16", dtype="bfloat16")
    gradients = [torch.cat([g.flatten() for g in first_gradients(folder).values()]) for folder in (exact, rounded)]
    assert gradients[1].dtype == torch.float32
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.99
    losses = [
        json.loads((folder / "backbone.json").read_text())["result"]["validation"]["span-corruption"]
        for folder in (exact, rounded)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_a_probe_leaves_the_training_as_it_is(tokens_folder: Path, tmp_path: Path) -> None:
    settings = SMALL | {"steps": 4, "probe_every": 2, "dropout": 0.1}
    plain = preface.pretrain(tokens_folder, tmp_path / "plain", **settings)
    probed = preface.pretrain(tokens_folder, tmp_path / "probed", probes=["film"], **settings)
    assert equal(plain, probed)
    scores = [line["probe"] for line in read_metrics(probed) if "probe" in line]
    assert len(scores) == 2
    assert all(0 <= score["film"] <= 1 for score in scores)
    assert (probed / "probes" / "film-0000002" / "run.json").exists()


def test_stopped_in_a_probe_it_goes_on(tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL | {"steps": 3, "probes": ["film"]}
    out = tmp_path / "stopped"

    def stopped(*_: Any) -> float:
        raise Interrupted("`preface train --resume` goes on")

    with monkeypatch.context() as patch:
        patch.setattr(building, "probe", stopped)
        with pytest.raises(Interrupted, match=f"`preface pretrain --resume {out}` goes on"):
            preface.pretrain(tokens_folder, out, **settings)
    making.resume(out)
    steps = [(line["step"], *(line.keys() - {"step", "tokens", "seconds"})) for line in read_metrics(out)]
    assert len(steps) == len(set(steps))  # no line is written twice
    assert json.loads((out / "backbone.json").read_text())["result"]["probes"].keys() == {"film"}


def test_adapting_begins_with_the_checkpoint(made: Path, tokens_folder: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "numbers"}
    out = preface.adapt(made, tmp_path / "still", tokens=tokens_folder, steps=1, learning_rate=1e-12, **settings)
    assert equal(made, out)
    record = json.loads((out / "backbone.json").read_text())
    assert record["began_from"] == str(made)
    assert record["settings"]["objectives"] == {"prefix-lm": 1.0}
    assert record["seen_tasks"] == ["film"]  # inherited
    card = (out / "README.md").read_text()
    assert f"trained on from `{made}`" in card
    assert "first, as `straight`: " in card


@pytest.mark.parametrize("published", ["t5-v1.1", "mt5"])
def test_published_checkpoints_learn_instructions(published: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Untied embeddings, heads × d_kv ≠ d_model, unequal depths; no text is needed."""
    settings = {key: value for key, value in SMALL.items() if key != "numbers"}
    out = preface.adapt(
        checkpoints[published], tmp_path / "tuned", objectives={"instructions": 1}, tasks=["film"], steps=3, **settings
    )
    before, after = load_file(checkpoints[published] / "model.safetensors"), weights(out)
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"].bfloat16(), after["lm_head.weight"])


def test_instructions_learn_a_task(data_file: Path, tmp_path: Path) -> None:
    """Full tuning is instructions on one task: the loss of the answers falls to nearly nothing."""
    settings = {key: value for key, value in SMALL.items() if key not in ("numbers", "validate_every")}
    settings |= {"batch_size": 8, "warmup": 5, "validate_every": 30, "learning_rate": 1e-2}
    out = preface.adapt(
        "nano", tmp_path / "tuned", objectives={"instructions": 1}, tasks=[str(data_file)], steps=30, **settings
    )
    evaluations = [line["validation"]["instructions"] for line in read_metrics(out) if "validation" in line]
    assert evaluations[-1] < 0.1 < evaluations[0]


def test_evaluation_inputs_are_kept_out_of_instructions(tmp_path: Path, data_file: Path) -> None:
    """Rows of a film test, shouted, among a file's own rows: as many as are drawn to train on are left out."""
    planted = [example.text for example in load_split("film", "test").examples[:40]]
    own = tmp_path / "own.jsonl"
    rows = [json.dumps({"text": text.upper(), "label": ("yes", "no")[i % 2]}) for i, text in enumerate(planted)]
    own.write_text("\n".join([*rows, *data_file.read_text().splitlines()]) + "\n")
    settings = {key: value for key, value in SMALL.items() if key != "numbers"} | {"steps": 1}
    settings |= {"objectives": {"instructions": 1}, "keep_out": ["film"]}
    out = preface.adapt("nano", tmp_path / "tuned", tasks=[str(own)], **settings)
    trained = [e.text for e in load_split(own, "train").examples if e.text.isupper()]
    assert len(trained) > 10
    assert json.loads((out / "backbone.json").read_text())["left_out_examples"] == {"own.jsonl": len(trained)}
    own.write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="no row is left"):
        preface.adapt("nano", tmp_path / "nothing", tasks=[str(own)], **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "give one budget"),
        ({"minutes": 1}, "give one budget"),
        ({"objectives": {"instructions": 1}}, "the objective `instructions` needs some"),
        ({"tasks": ["film"]}, "no objective is `instructions`"),
        ({"objectives": {"masking": 1}}, "objectives"),
        ({"objectives": {"prefix-lm": 0}}, "weights are positive"),
        ({"tokens": "nowhere"}, "nowhere"),
        ({"learning_rate": -1}, "learning-rate"),
        ({"device": "tpu9"}, "device tpu9"),
        ({"probes": ["flim"]}, "did you mean film"),
        ({"probes": ["reviews"]}, "reviews has no split 'train'"),
        ({"keep_out": ["reviews"]}, "reviews may be in the text"),
        ({"objectives": {"instructions": 1}, "tasks": ["film", "film"]}, "film is named twice"),
        ({"objectives": {"instructions": 1}, "tasks": ["reviews"]}, "reviews has no split 'train'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    change: dict[str, Any], message: str, tokens_folder: Path, tmp_path: Path
) -> None:
    options = {"tokens": tokens_folder, "steps": 1, **SMALL, **change}
    with pytest.raises(UserError, match=message):
        preface.pretrain(options.pop("tokens"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"objectives": {"instructions": 1}, "tasks": ["{}"]}, {"probes": ["{}"]}])
@pytest.mark.parametrize(("row", "name"), [({"text": "a", "stars": "1"}, "label"), ({"a": "a", "label": "1"}, "text")])
def test_a_file_of_other_fields_is_told_what_works_here(
    options: dict[str, Any], row: dict[str, str], name: str, tokens_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "free.jsonl"
    file.write_text(json.dumps(row) + "\n")
    options = {key: [str(file)] if isinstance(value, list) else value for key, value in options.items()}
    with pytest.raises(UserError) as caught:
        preface.pretrain(tokens_folder, tmp_path / "out", **options, steps=1, **SMALL)
    (first, second), option = row, {"text": "--input", "label": "--label"}[name]
    assert str(caught.value) == (
        f"{file}: no field is called '{name}', name one with {option}; its fields are "
        f"'{first}', '{second}' (where tasks are several, a YAML says what options say of one)"
    )


def test_other_tokenizers_are_refused(checkpoints: dict[str, Path], texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "film.txt").write_text("\n".join(texts))
    tokens = preface.tokenize([tmp_path / "film.txt"], tmp_path / "tokens", vocabulary=600)
    with pytest.raises(UserError, match="made with another tokenizer"):
        preface.adapt(checkpoints["t5-v1.0"], tmp_path / "out", tokens=tokens.folder, steps=1)


def test_a_loss_that_is_not_finite_ends_in_a_line(tokens_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite at step"):
        preface.pretrain(tokens_folder, tmp_path / "out", steps=30, **SMALL | {"learning_rate": 1e30, "clip": None})


def test_finished_runs_are_not_resumed(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished already"):
        making.resume(made)
    with pytest.raises(UserError, match="nothing to resume"):
        making.resume(tmp_path)
    with pytest.raises(UserError, match="is there already and not empty; give another --out"):
        preface.adapt(made, made, objectives={"instructions": 1}, tasks=["film"], steps=1)


@pytest.fixture
def stopped(tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training from scratch, interrupted after the first of two steps."""
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(Interrupted):
            preface.pretrain(tokens_folder, tmp_path / "stopped", steps=2, **SMALL)
    return tmp_path / "stopped"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: [], "MakingRecord"),
        (lambda record: 3, "MakingRecord"),
        (lambda record: {}, "verb: Field required"),
        (lambda record: record | {"settings": None}, "settings"),
        (lambda record: record | {"settings": {"steps": "x"}}, "settings"),
        (lambda record: record | {"device": 3}, "device"),
        (lambda record: record | {"tokens_folder": 3}, "tokens_folder"),
        (lambda record: record | {"tasks": 3}, "tasks"),
        (lambda record: record | {"text": {}}, r"text\.sha256"),
        (lambda record: record | {"architecture": None}, "it begins either with an architecture or from a backbone"),
        (lambda record: {name: value for name, value in record.items() if name != "keep_out"}, "keep_out"),
    ],
)
def test_altered_records_are_refused_in_a_line(change: Any, says: str, stopped: Path) -> None:
    file = stopped / "backbone.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=rf"backbone\.json: damaged, or of another version \(.*{says}") as caught:
        making.resume(stopped)
    assert "\n" not in str(caught.value)


def test_what_another_process_has_finished_meanwhile_stays(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was unfinished when this process began to build what it needs, and is not when that is done."""
    file = stopped / "backbone.json"
    finished = json.dumps(json.loads(file.read_text()) | {"result": {}})
    monkeypatch.setattr(making, "check_probes", lambda record: file.write_text(finished))
    with pytest.raises(UserError, match="finished already"):
        making.resume(stopped)
    assert file.read_text() == finished


def test_what_another_process_has_begun_meanwhile_stays(
    tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "backbone.json"

    def begin(record: Any) -> None:
        file.parent.mkdir()
        file.write_text("{}")

    monkeypatch.setattr(making, "check_probes", begin)
    with pytest.raises(UserError, match="is there already and not empty; `--resume"):
        preface.pretrain(tokens_folder, file.parent, steps=1, **SMALL)
    assert file.read_text() == "{}"


def test_a_lock_alone_is_in_nobody_s_way(tokens_folder: Path, tmp_path: Path) -> None:
    """As it is left where the disk was full before anything was written."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    assert (preface.pretrain(tokens_folder, tmp_path / "out", steps=1, **SMALL) / "model.safetensors").exists()


def full_of_weights(model: Any, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").touch()
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def full_of_pieces(*_: Any, **__: Any) -> None:
    raise Exception("No space left on device (os error 28)")  # as tokenizers does


@pytest.mark.parametrize(
    ("kind", "full"), [(PreTrainedModel, full_of_weights), (PreTrainedTokenizerBase, full_of_pieces)]
)
def test_a_full_disk_at_the_end_is_a_line(
    kind: type, full: Any, tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kind, "save_pretrained", full)
        with pytest.raises(UserError, match=r"out: cannot be written \(.*No space left on device"):
            preface.pretrain(tokens_folder, tmp_path / "out", steps=1, **SMALL)
    assert not (tmp_path / "out" / ".export").exists()
    assert (making.resume(tmp_path / "out") / "model.safetensors").exists()


def test_the_checkpoint_is_found_again_from_another_folder(
    made: Path, tokens_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "numbers"} | {"steps": 2}
    monkeypatch.chdir(made.parent)
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(Interrupted):
            preface.adapt(made.name, tmp_path / "out", tokens=tokens_folder, **settings)
    monkeypatch.chdir(tmp_path)
    assert (making.resume(tmp_path / "out") / "model.safetensors").exists()


@pytest.mark.parametrize("change", [lambda record: record.pop("result"), lambda record: record.update(result=3)])
def test_adapting_begins_with_a_finished_backbone(change: Any, made: Path, tokens_folder: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(made, tmp_path / "unfinished"))
    record = json.loads((unfinished / "backbone.json").read_text())
    change(record)
    (unfinished / "backbone.json").write_text(json.dumps(record))
    settings = {key: value for key, value in SMALL.items() if key != "numbers"}
    with pytest.raises(UserError, match=r"backbone\.json: damaged, or of a backbone that is not finished"):
        preface.adapt(unfinished, tmp_path / "out", tokens=tokens_folder, steps=1, **settings)

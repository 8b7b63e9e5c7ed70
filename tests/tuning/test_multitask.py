"""A prompt for each task of a mixture, with one part that all share."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.backbones.batching import answers_of
from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone
from preface.errors import UserError
from preface.methods.init import Initializer
from preface.methods.multitask_prompt_tuning import MultitaskPromptTuning, SharedPrompts
from preface.prompts import Prompts
from preface.records.card import load_prompt
from preface.records.run import Run
from preface.serving.store import Store
from preface.tasks import load_split, load_task
from preface.terminal.interrupt import Interrupted
from preface.tuning import multitask
from preface.tuning.optimizers import OptimizerName
from preface.tuning.step import Step

METHOD = MultitaskPromptTuning(length=3)
RECIPE: dict[str, Any] = {"learning_rates": [0.01, 0.1], "steps": 6, "batch_size": 4, "evaluate_every": 2}
IDS = [[5 + place] * (1 + 7 * place % 20) + [1] for place in range(12)]
TARGETS = [[[300, 1], [301, 302, 1], [303, 1]][place % 3] for place in range(12)]
OF_TASK = [0] * 5 + [1] * 7


def start_of(backbone: Backbone, members: int) -> torch.Tensor:
    initializer = Initializer.parse("vocabulary")
    return torch.stack([initializer.embeddings(backbone, 3, seed) for seed in range(members)])


@pytest.mark.parametrize("clip", [None, 0.05])
def test_it_trains_as_one_model_of_all_tasks_does(tiny: Backbone, clip: float | None) -> None:
    """Against torch's own optimizer, clipping and autograd, with a pass for each task."""
    start = start_of(tiny, 2)
    module = SharedPrompts(start.clone()).for_tasks(2)
    step = Step(tiny, module, Inputs(tiny, IDS), TARGETS, "adamw", 0.0, clip, of_task=OF_TASK)
    shared = start[1].clone().requires_grad_()
    u, v = torch.ones(2, 3, requires_grad=True), torch.ones(2, tiny.width, requires_grad=True)
    adamw = torch.optim.AdamW([shared, u, v], lr=0.02, weight_decay=0.0)
    # of unlike many rows; at last the first member has stopped
    for batches in ([[0, 1, 5, 6], [0, 2, 7, 8, 9]], [[3, 11], [4, 10, 11]], [[2, 1, 5]]):
        members = [0, 1] if len(batches) == 2 else [1]
        losses = step(batches, members, [0.5, 0.02])
        by_hand = []
        for task in (0, 1):
            rows = [row for row in batches[-1] if OF_TASK[row] == task]
            prompts = Prompts.one({"embeddings": shared * torch.outer(u[task], v[task])})
            answers, labels = answers_of([TARGETS[row] for row in rows], step.lead_in)
            context = tiny.read(*tiny.pad([IDS[row] for row in rows]), prompts)
            pieces = tiny.losses(context, answers, labels, prompts)
            by_hand.append(pieces.sum() / (labels != -100).sum())
        adamw.zero_grad()
        loss = torch.stack(by_hand).mean()
        loss.backward()
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_([shared, u, v], clip)
            assert norm > clip
        adamw.step()
        torch.testing.assert_close(losses[-1], loss.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module.shared[1], shared.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.u[1], u.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.v[1], v.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_member_does_not_depend_on_another(tiny: Backbone, optimizer: OptimizerName) -> None:
    start = start_of(tiny, 2)
    both, alone = SharedPrompts(start.clone()).for_tasks(2), SharedPrompts(start[1:].clone()).for_tasks(2)
    steps = [Step(tiny, module, Inputs(tiny, IDS), TARGETS, optimizer, of_task=OF_TASK) for module in (both, alone)]
    for _ in range(2):
        steps[0]([[0, 5, 6], [3, 4, 8, 9]], [0, 1], [0.1, 0.01])
        steps[1]([[3, 4, 8, 9]], [0], [0.01])
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(both.get_parameter(name)[1:], parameter, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two tasks, of 40 and 16 rows, of which the label is a word of the text."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows, words in (("short", 40, ("yes", "no")), ("long", 16, ("true", "false"))):
        lines = [f"the {name} {words[i % 2]} thing number {i},{words[i % 2]}" for i in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines, ""]))
        (folder / f"{name}-test.csv").write_text(f"text,label\na {words[0]} one,{words[0]}\na {words[1]},{words[1]}\n")
        (folder / f"{name}.yaml").write_text(
            f"""
name: {name}
source: {{files: {{parts: {{rows: {name}.csv, test: {name}-test.csv}}}}}}
fields: {{input: text, label: label}}
metric: macro_f1
labels: {{{words[0]!r}: {words[0]!r}, {words[1]!r}: {words[1]!r}}}
splits: {{train: {{part: rows}}, validation: {{part: rows, share: 0.3}}, test: {{part: test}}}}
"""
        )
    return f"{folder}/short.yaml+{folder}/long.yaml"


@pytest.fixture(scope="module")
def run(nano: Backbone, tasks: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return preface.train(nano, tasks, METHOD, out=tmp_path_factory.mktemp("multitask") / "run", seeds=2, **RECIPE)


def test_members_are_judged_by_the_mean_over_tasks(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "dev_scores" in line]
    assert [(line["step"], line["member"]) for line in scored] == [(at, k) for at in (0, 2, 4, 6) for k in range(4)]
    for line in scored:
        assert line["dev_score"] == pytest.approx(sum(line["dev_scores"][name] for name in ("short", "long")) / 2)
    for member in run.members:
        own = [line for line in scored if line["member"] == member.index]
        best = max(own, key=lambda line: (line["dev_score"], -line["dev_loss"]))
        assert (member.score, member.loss, member.step) == (best["dev_score"], best["dev_loss"], best["step"])
        saved = run.prompt(member.index)
        for name, score in best["dev_scores"].items():
            card = saved.of_task(name).card
            assert (card.member.score, card.member.index, card.task.name) == (pytest.approx(score), member.index, name)


def test_what_is_stored_is_what_was_measured(run: Run, nano: Backbone, tasks: str) -> None:
    """Each task's prompt, loaded anew, has the score of its card on the development rows, and the run's predictions."""
    said = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    for number, part in enumerate(tasks.split("+")):
        task = load_task(part)
        (cell,) = preface.evaluate(run, [part], backbone=nano, prompts="best", split="validation")
        own = run.prompt().of_task(task.name)
        assert cell.value == pytest.approx(own.card.member.score)
        assert (cell.metric, cell.train_task, cell.details["development_score"]) == (
            "macro_f1", "short+long", own.card.member.score,
        )  # fmt: skip
        sizes = [len(load_split(load_task(each), "validation").examples) for each in tasks.split("+")]
        mine = said[: sizes[0]] if number == 0 else said[sizes[0] :]
        rows = [json.loads(line) for line in Path(cell.details["predictions"]).read_text().splitlines()]
        assert [row["label"] for row in rows] == [row["label"] for row in mine]
        assert set(rows[0]["probabilities"]) == set(task.label_words)
        assert own.card.label_words == task.label_words


def test_prompts_are_the_shared_one_times_rank_one(run: Run, nano: Backbone) -> None:
    for member in run.members:
        saved = run.prompt(member.index)
        shared = saved.prompts.embeddings
        assert shared is not None
        assert saved.card.shared_by == ("short", "long")
        for name in saved.card.shared_by:
            own = saved.of_task(name).prompts.embeddings
            assert own is not None
            sizes = torch.linalg.svdvals((own / shared)[0].double())
            assert sizes[1] < 1e-4 * sizes[0]
    size = 3 * nano.width
    assert run.result.trained_parameters == size + 2 * (3 + nano.width)
    assert run.result.stored_parameters == size


def test_all_its_tasks_are_evaluated_and_each_prompt_is_one(run: Run, nano: Backbone) -> None:
    cells = preface.evaluate(run, backbone=nano, prompts="all")
    assert [cell.eval_task for cell in cells] == ["short"] * 4 + ["long"] * 4
    folder = run.folder / "prompt" / "tasks" / "long"
    (line,) = preface.predict(folder, ["a true thing"], backbone=nano)
    assert set(line["probabilities"]) == {"true", "false"}


def test_another_task_and_the_shared_part_are_refused(run: Run, nano: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no prompt for film; give that of short or long, such as "):
        preface.evaluate(run, ["film"], backbone=nano, prompts="best")
    own = run.folder / "prompt" / "tasks" / "short"
    with pytest.raises(UserError, match=rf"several tasks share; give that of short or long, such as {own}"):
        list(preface.predict(run, ["a text"], backbone=nano))
    with pytest.raises(UserError, match="is only what the prompts of several tasks share"):
        preface.ensemble([run], out=tmp_path / "ensemble", prompts="all", backbone=nano)
    with pytest.raises(UserError, match="is only what the prompts of several tasks share"):
        Store(run.folder.parent, nano).get(run.folder.name)
    served = Store(run.folder / "prompt" / "tasks", nano)
    assert [served.get(name).card.task.name for name in served.names()] == ["long", "short"]


def test_a_target_task_begins_at_the_shared_part(run: Run, nano: Backbone, tmp_path: Path) -> None:
    method = MultitaskPromptTuning(length=3, init=f"prompt:{run.folder}")
    module = method.build(nano, Initializer.parse(method.init), [0])
    assert torch.equal(module().embeddings, load_prompt(run.folder).prompts.embeddings)
    target = preface.train(nano, "film", method, out=tmp_path / "target", train_rows=20, **RECIPE | {"steps": 2})
    assert target.prompt().card.shared_by == ()
    assert target.result.trained_parameters == 3 * nano.width + 3 + nano.width


def test_interrupted_it_ends_as_uninterrupted(
    nano: Backbone, tasks: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = multitask.Multitask.step

    def stopping(self: Any, number: int, done: float) -> int:
        if number == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, done)

    monkeypatch.setattr(multitask.Multitask, "step", stopping)
    with pytest.raises(Interrupted, match="goes on"):
        preface.train(nano, tasks, METHOD, out=tmp_path / "run", seeds=2, **RECIPE)
    monkeypatch.setattr(multitask.Multitask, "step", step)
    again = preface.train(nano, resume=tmp_path / "run")
    assert again.result.members == run.result.members
    for name in ("short", "long"):
        first, second = (one.prompt().of_task(name).prompts.tensors["embeddings"] for one in (run, again))
        assert torch.equal(first, second)


def test_each_step_has_a_batch_of_each_task(
    nano: Backbone, tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    batches_of = multitask.Multitask._batches

    def watched(self: multitask.Multitask, number: int) -> list[list[int]]:
        batches = batches_of(self, number)
        seen.extend([[self.rows.of_task[row] for row in batch] for batch in batches])
        assert self.rows.steps_an_epoch(self.recipe) == 28 // 4  # of the larger task
        return batches

    monkeypatch.setattr(multitask.Multitask, "_batches", watched)
    preface.train(nano, tasks, METHOD, out=tmp_path / "run", **RECIPE | {"steps": 3, "class_weights": "balanced"})
    assert len(seen) == 3 * 2
    assert all(batch[:4] == [0] * 4 and set(batch[4:]) == {1} for batch in seen)


def test_a_decoder_only_model_answers_after_one_cue(causal_folder: Path, tasks: str, tmp_path: Path) -> None:
    model = load_backbone(causal_folder, dtype="float32", device="cpu")
    method = MultitaskPromptTuning(length=2, place="after")
    run = preface.train(model, load_task(tasks, cue="So:"), method, out=tmp_path / "run", **RECIPE | {"steps": 2})
    assert run.prompt().of_task("long").card.task.cue == "So:"
    assert [cell.eval_task for cell in preface.evaluate(run, prompts="best", backbone=model)] == ["short", "long"]


@pytest.mark.parametrize("options", [{"shots": 2}, {"folds": 2}])
def test_mistakes(nano: Backbone, tasks: str, tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="takes neither shots nor folds; give train-rows"):
        preface.train(nano, tasks, METHOD, out=tmp_path / "run", **RECIPE | options)
    assert not (tmp_path / "run").exists()

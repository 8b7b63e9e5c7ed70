"""The candidates of a method of our own: each is trained and asked on a tiny model, beside what it should come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from preface.backbones.base import Backbone
from preface.backbones.load import load_backbone
from preface.methods import PrefixTuning
from preface.methods.init import Initializer
from preface.prompts import Prompts
from preface.tasks import Example

ROWS = [
    Example.of(f"a {('dull', 'fine')[i % 2]} film {'and more ' * (i % 4)}", ("bad", "good")[i % 2]) for i in range(40)
]


@pytest.fixture
def own(load, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("own_method")
    monkeypatch.setattr(module, "PAIRS", (("bad", "good"), ("no", "yes")))
    monkeypatch.setattr(module, "TRIAL", 2)
    monkeypatch.setattr(module, "CANDIDATES", {name: replace(one, steps=3) for name, one in module.CANDIDATES.items()})
    monkeypatch.setattr(module, "examples", lambda task, split, data, rows=None: ROWS)
    return module


@pytest.fixture
def modules(load) -> ModuleType:
    return load("own_method_modules")


@pytest.fixture
def backbone(causal_folder: Path) -> Backbone:
    return load_backbone(causal_folder, dtype="float32", device="cpu")


def test_every_candidate_is_trained_and_asked_once(
    own: ModuleType, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(own.CANDIDATES, "chat", own.Candidate(template=own.TOLD))  # this tokenizer has no chat template
    monkeypatch.setitem(own.CANDIDATES, "bare-chat", own.Candidate(seeds=0, template=own.TOLD))
    for name in own.CANDIDATES:
        own.train(name, tmp_path, "sst2", None, backbone)
    own.ask("cr", "test", own.CUES[0], tmp_path, None, backbone)
    for name, candidate in own.CANDIDATES.items():
        found = np.load(tmp_path / name / own.stem_of("cr"))
        members = max(1, candidate.seeds * candidate.best_rates)
        assert found["logits"].shape == (members, len(ROWS), 2, 2)
        assert found["prior"].shape == (members, 3, 2, 2)
        assert found["gold"].tolist() == [0, 1] * 20
        assert np.isfinite(found["logits"]).all()
    monkeypatch.setattr(own, "Texts", None)  # nothing is read again
    own.train("plain", tmp_path, "sst2", None, backbone)
    own.ask("cr", "test", own.CUES[0], tmp_path, None, backbone)


@pytest.mark.parametrize("rank", [0, 2])
def test_members_are_trained_each_at_its_own_rate(own: ModuleType, backbone: Backbone, rank: int) -> None:
    texts = own.Texts.of(backbone, ROWS, own.ONCE, own.CUES[0])
    training = own.Training(backbone, own.Candidate(rank=rank), [texts])
    prompts = training.run("two", ROWS, [(0.0, 0), (0.03, 0)], 40)
    with torch.no_grad():
        begun = training.module(ROWS, [0, 0])()
        still, learnt = training.losses(prompts, [range(40), range(40)]).tolist()
        before, _ = training.losses(begun, [range(40), range(40)]).tolist()
    assert still == pytest.approx(before, rel=1e-5)
    assert learnt < before - 0.5


@pytest.mark.parametrize(
    "fields", [{"cut": 0.5}, {"cut": 1.0}, {"heads": 3}, {"heads": 3, "template": "Is it?\n{text}"}]
)
def test_what_is_kept_of_a_text_does_for_all_that_it_may_be_cut_to(own: ModuleType, backbone: Backbone, fields) -> None:
    """An answer about a text that is cut is the one after reading no more of it."""
    candidate = own.Candidate(**fields)
    texts = own.Texts.of(backbone, ROWS, candidate.template, own.CUES[0])
    training, prompts = own.Training(backbone, candidate, [texts]), prefixes(own, backbone)
    whole = texts.inputs.read(range(len(ROWS)))
    context = training.cut(whole)
    lengths = context.mask.sum(1)
    assert (lengths < whole.mask.sum(1)).any()
    ids = [texts.inputs.ids[row][:length] for row, length in enumerate(lengths.tolist())]
    again = backbone.read(*backbone.pad(ids))
    found, expected = (texts.states(backbone, some, prompts.select([0]), len(ROWS)) for some in (context, again))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if candidate.cut == 0.5:
        assert (lengths == whole.mask.sum(1)).sum() > len(ROWS) / 4
    if candidate.heads:
        assert lengths.max() == candidate.heads + training.around


def test_a_cut_twin_counts_as_much_as_the_whole_text(
    own: ModuleType, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.full((size,), 0.3))
    texts = own.Texts.of(backbone, ROWS, own.ONCE, own.CUES[0])
    prompts, batch = prefixes(own, backbone), [range(16), range(8, 24)]
    whole, cut, both = (
        own.Training(backbone, own.Candidate(**fields), [texts]).losses(prompts, batch)
        for fields in ({}, {"cut": 1.0}, {"twins": True})
    )
    assert not torch.equal(whole, cut)
    torch.testing.assert_close(both, (whole + cut) / 2)


def prefixes(own: ModuleType, backbone: Backbone, length: int = 4) -> Prompts:
    begin = Initializer.parse("activations", own.PAIRS[0], [("a film", "good")], own.CUES[0])
    return PrefixTuning(length=length, sites=("answer",)).build(backbone, begin, [0, 1])()


def test_growing_prefixes_weigh_as_if_they_stood_there_more_often(
    own: ModuleType, modules: ModuleType, backbone: Backbone
) -> None:
    # with α = 1, a text of 2 N₀ pieces sees every key of a prefix twice
    texts = own.Texts.of(backbone, ROWS[:1], own.ONCE, own.CUES[0])
    prompts, context = prefixes(own, backbone), texts.inputs.read([0])
    twice = Prompts({name: torch.cat([tensor, tensor], dim=3) for name, tensor in prompts.tensors.items()})
    with torch.no_grad():
        expected = texts.states(backbone, context, twice, 2)
        with modules.growing(1.0, texts.inputs.lengths[0] / 2):
            found = texts.states(backbone, context, prompts, 2)
        plain = texts.states(backbone, context, prompts, 2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-3)


def test_changed_queries_are_those_of_a_model_with_other_weights(
    own: ModuleType, modules: ModuleType, backbone: Backbone
) -> None:
    texts = own.Texts.of(backbone, ROWS[:3], own.ONCE, own.CUES[0])
    context = texts.inputs.read([0, 1, 2])
    queries = modules.Queries(backbone, 2, [0, 1])
    torch.nn.init.normal_(queries.up, std=0.5)
    with torch.no_grad():
        prompts = queries()
        found = texts.states(backbone, context, prompts, 6).unflatten(0, (2, 3))
        for member in range(2):
            changes = (queries.up @ queries.down)[member]  # [L, heads * e, d]
            plain = [projection.plain.clone() for projection in modules.projections(backbone)]
            for projection, weight, change in zip(modules.projections(backbone), plain, changes, strict=True):
                projection.unpack()
                projection.weight.copy_(weight + change)
            expected = texts.states(backbone, context, Prompts.bare(), 3)
            for projection, weight in zip(modules.projections(backbone), plain, strict=True):
                projection.unpack()
                projection.weight.copy_(weight)
            torch.testing.assert_close(found[member], expected, atol=1e-4, rtol=1e-3)


def test_divergence_is_none_between_equals_and_log_2_between_opposites(own: ModuleType) -> None:
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).clamp(1e-9).log()
    alike, apart = sure[[0, 0]], sure
    torch.testing.assert_close(own.divergence(torch.stack([alike, apart])), torch.tensor([0.0, np.log(2)]).float())


def test_half_of_the_joined_rows_are_two_of_one_label(own: ModuleType) -> None:
    joined = own.with_joined(ROWS)
    assert [row.label for row in joined] == [row.label for row in ROWS]
    assert joined[:20] == ROWS[:20]
    for row, alone in zip(joined[20:], ROWS[20:], strict=True):
        assert row.text.startswith(alone.text.strip())
        assert row.text.count("film") == 2
        assert row.text.count("dull") in (0, 2)


def test_batches_have_as_many_rows_of_each_source(own: ModuleType, backbone: Backbone) -> None:
    texts = own.Texts.of(backbone, ROWS, own.ONCE, own.CUES[0])
    batches = own.Training(backbone, own.Candidate(), [texts], sizes=[24, 10, 6]).batches(0)
    seen = [next(batches) for _ in range(4)]  # 6 of each: an epoch of 24 rows of the first
    for batch in seen:
        assert all(24 <= row < 30 for row in batch[6:12])  # 6 of 10 fill a batch
        assert sorted(batch[12:]) == list(range(34, 40))
    assert sorted(row for batch in seen for row in batch[:6]) == list(range(24))


def test_sources_share_a_prefix_times_a_rank_of_one(own: ModuleType, modules: ModuleType, backbone: Backbone) -> None:
    start = prefixes(own, backbone)
    module = modules.Shared(start, 3)
    with torch.no_grad():
        begun = module()
        for name, tensor in begun.tensors.items():  # all begin at the shared one, members apart
            torch.testing.assert_close(tensor, start.tensors[name].repeat_interleave(3, 0))
        torch.nn.init.normal_(module.u)
        for v in module.v:
            torch.nn.init.normal_(v)
        changed, shared = module(), module.shared()
    for name, tensor in start.tensors.items():
        torch.testing.assert_close(shared.tensors[name], tensor)
        ratio = (changed.tensors[name][4] / tensor[1]).permute(2, 0, 1, 3).flatten(1)  # the second source, [n, L H e]
        assert torch.linalg.matrix_rank(ratio.double(), rtol=1e-4) == 1


def test_a_prefix_that_sources_share_learns(own: ModuleType, backbone: Backbone) -> None:
    texts = own.Texts.of(backbone, ROWS, own.ONCE, own.CUES[0])
    training = own.Training(backbone, own.Candidate(shared=True), [texts], sizes=[20, 12, 8])
    still, learnt = training.run("shared", ROWS, [(0.0, 0), (0.03, 0)], 40).tensors["answer.keys"]
    assert not torch.allclose(still, learnt, atol=1e-3)
    prompts = training.run("shared", ROWS, [(0.0, 0), (0.03, 0)], 40)
    before, after = own.Training(backbone, own.Candidate(), [texts]).losses(prompts, [range(40), range(40)]).tolist()
    assert after < before - 0.5


@pytest.mark.parametrize(("size", "right"), [(1, 1 / 2), (2, 1 / 4), (3, 1 / 8)])
def test_members_averaged_are_right_where_their_mean_is(load, size: int, right: float) -> None:
    """One of two members is right and unsure, the other wrong and sure: right are the draws of the first alone."""
    logs = np.log(np.array([[[0.4, 0.6]] * 50, [[0.9, 0.1]] * 50]))  # [S, N, 2]
    answers = SimpleNamespace(logs=logs, gold=np.ones(50, dtype=int))
    table = load("own_method_table")
    score, *drawn = table.averaged(answers, size, 0)
    assert score == pytest.approx(right, abs=0.03)
    assert np.mean(drawn) == pytest.approx(right, abs=0.03)
    assert set(drawn) == {0.0, 1.0}
    assert np.array_equal(drawn, table.averaged(answers, size, 1)[1:])  # whose rows alone are drawn anew

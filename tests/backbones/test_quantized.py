"""Weights in 8 and 4 bits, held against a backbone whose plain weights are the numbers that these stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import preface
from preface.backbones.base import Backbone
from preface.backbones.frozen import FrozenLinear
from preface.backbones.load import load_backbone, load_checkpoint, resolved
from preface.backbones.quantized import KINDS, Int8Linear, name_with, split_name
from preface.errors import UserError
from preface.labelling import fit
from preface.methods import PrefixTuning
from preface.methods.init import Initializer
from preface.records.run import Run
from preface.terminal.interrupt import Interrupted
from preface.tuning.population import Population

IDS = [[5, 6, 7, 8, 9, 10, 11, 12], [9, 10, 11]]
RECIPE: dict[str, Any] = {"learning_rates": [0.1], "steps": 3, "evaluate_every": 3, "batch_size": 4}


@pytest.fixture(params=["t5", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("checkpoint_folder" if request.param == "t5" else "causal_folder")


def load(folder: Path, kind: str | None = None) -> Backbone:
    return load_backbone(folder if kind is None else f"{folder}@{kind}", dtype="float32", device="cpu")


def stands_for(layer: nn.Module) -> Tensor:
    """The weights that a layer computes with, `[out, in]`."""
    if isinstance(layer, Int8Linear):
        return layer.weight.float() * layer.scale[:, None]
    from bitsandbytes.functional import dequantize_4bit

    held: Any = layer.weight
    return dequantize_4bit(held.data, held.quant_state)


def losses_and_gradients(backbone: Backbone, sites: tuple[str, ...]) -> list[Tensor]:
    method = PrefixTuning(length=3, sites=sites)
    module = method.build(backbone, Initializer.parse("vocabulary"), [0, 1])
    with backbone.training(0.0, False):
        prompts, rows = module(), torch.tensor([0, 1])
        context = backbone.read(*backbone.pad(IDS), prompts, rows)
        said = torch.tensor([[17], [18]])
        losses = backbone.losses(context, torch.zeros(2, 1, dtype=torch.long), said, prompts, rows)
        gradients = torch.autograd.grad(losses.sum(), list(module.parameters()))
    return [losses.detach(), *gradients]


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_with_what_its_weights_stand_for(folder: Path, kind: str) -> None:
    held, plain, sites = load(folder, kind), load(folder), tuple(load(folder).sites)
    named = dict(plain.model.named_modules())
    count = 0
    for name, layer in held.model.named_modules():
        if type(layer).__name__ in ("Int8Linear", "Linear4bit"):
            linear = named[name]
            assert isinstance(linear, FrozenLinear)
            linear.unpack()
            linear.weight = nn.Parameter(stands_for(layer), requires_grad=False)
            count += 1
    assert count == sum(isinstance(layer, FrozenLinear) for layer in named.values()) - 1  # all but the head
    assert isinstance(held.head, FrozenLinear)
    for own, other in zip(losses_and_gradients(held, sites), losses_and_gradients(plain, sites), strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


def test_whole_numbers_are_within_half_a_step(causal_folder: Path) -> None:
    plain = load(causal_folder)
    linear = next(layer for layer in plain.model.modules() if isinstance(layer, FrozenLinear))
    linear.unpack()
    layer = Int8Linear(linear, torch.device("cpu"))
    assert layer.weight.dtype == torch.int8
    assert layer.weight.abs().amax(1).eq(127).all()
    assert ((stands_for(layer) - linear.weight).abs() <= 0.5001 * layer.scale[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_keeps_plain_weights_for_the_way_back(causal_folder: Path, kind: str) -> None:
    backbone = load(causal_folder, kind)
    layer = next(layer for layer in backbone.model.modules() if type(layer).__name__ in ("Int8Linear", "Linear4bit"))
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(2, 24, requires_grad=True))
    assert all(tensor.numel() < 24 * 24 for tensor in saved if tensor.is_floating_point())


def test_one_name_for_a_prompt_and_another_for_what_was_read(causal_folder: Path) -> None:
    backbones = [load(causal_folder, kind) for kind in (None, *KINDS)]
    assert len({backbone.fingerprint for backbone in backbones}) == 1
    assert len({backbone.exact_fingerprint for backbone in backbones}) == 3
    assert [backbone.quantized for backbone in backbones] == [None, "int8", "nf4"]


def test_names(causal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_with("smollm2", "int8") == "smollm2@int8" == name_with("smollm2@int8", "int8")
    assert split_name("smollm2@nf4") == ("smollm2", "nf4")
    assert split_name("a@b/model@main") == ("a@b/model@main", None)
    with pytest.raises(UserError, match="quantize int3: one of int8, nf4"):
        name_with("smollm2", "int3")
    with pytest.raises(UserError, match="quantize int8: the backbone is named smollm2@nf4"):
        name_with("smollm2@nf4", "int8")
    monkeypatch.chdir(causal_folder.parent)
    assert resolved(f"{causal_folder.name}@int8") == f"{causal_folder.resolve()}@int8"


def test_a_run_says_how_and_what_uses_it_loads_it_so(
    causal_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = preface.train(f"{causal_folder}@int8", data_file, PrefixTuning(length=2), out=tmp_path / "run", **RECIPE)
    assert run.record.backbone == f"{causal_folder.resolve()}@int8"
    loaded: list[Backbone] = []
    monkeypatch.setattr(fit, "load_backbone", lambda *given: loaded.append(load_backbone(*given)) or loaded[-1])
    (cell,) = preface.evaluate(Run(run.folder), [data_file])
    assert [each.quantized for each in loaded] == ["int8"]
    plain = load(causal_folder)
    (other,) = preface.evaluate(Run(run.folder), [data_file], backbone=plain)  # it fits both
    assert (cell.backbone, other.backbone) == (run.record.backbone, plain.name)


def test_a_run_goes_on_with_weights_held_alike(
    causal_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(self: Population, number: int, done: float) -> int:
        raise Interrupted

    monkeypatch.setattr(Population, "step", stopping)
    with pytest.raises(Interrupted):
        preface.train(str(causal_folder), data_file, PrefixTuning(length=2), out=tmp_path / "run", **RECIPE)
    with pytest.raises(UserError, match=r"quantize: .* was begun in plain weights and would not end the same in int8"):
        preface.train(resume=tmp_path / "run", backbone=f"{causal_folder}@int8")


def test_mistakes(causal_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="weights are wanted as they are here; give nano"):
        load_checkpoint("nano@int8", torch.float32)
    columns = {"columns": [{"kind": "weights", "tuning": "bitfit"}], "backbone": f"{causal_folder}@int8"}
    experiment = {"title": "t", "train_task": str(data_file), "eval_tasks": [str(data_file)], **columns}
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(experiment))
    with pytest.raises(UserError, match="weights are tuned as they are; give the backbone"):
        preface.compare_cross_domain(str(tmp_path / "tuned.yaml"), out=tmp_path / "out")
    monkeypatch.setattr(preface.extras, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes; `pip install 'preface\[quantize\]'`"):
        load(causal_folder, "nf4")

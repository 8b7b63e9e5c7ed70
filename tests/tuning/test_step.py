"""A step as a GPU takes it (few shapes, recorded) against a step as a CPU takes it."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.label_words import LabelWords
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.tasks import Example, Split
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Rows
from preface.tuning.step import Step, member_losses, shares_of
from tests.backbones.test_captured import Repeating

METHODS = [
    PrefixTuning(length=3, sites=("decoder",), init="random"),
    PrefixTuning(length=3, sites=("decoder", "cross"), positions="none", reparametrize=4, init="random"),
    PrefixTuning(length=3, init="random"),
    PromptTuning(length=3, init="random"),
]
each_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: f"{method.name} {getattr(method, 'sites', '')}"
)
IDS = [[5 + place] * (1 + 7 * place % 40) + [1] for place in range(24)]
TARGETS = [[[300, 1], [301, 302, 1]][place % 2] for place in range(24)]
RATES = [0.1, 0.2, 0.05]


def step_of(backbone: Backbone, method: Method, members: int = 3) -> Step:
    module = method.build(backbone, Initializer.parse("random"), range(members))
    return Step(backbone, module, Inputs(backbone, IDS, keep=module.leaves_reading), TARGETS)


def as_on_a_gpu(step: Step) -> Repeating:
    """Few shapes, recorded."""
    step.few_shapes, recorder = True, Repeating()
    step.record = lambda: recorder
    return recorder


@each_method
def test_recorded_steps_train_as_others_do(method: Method, tiny: Backbone) -> None:
    plain, recorded = step_of(tiny, method), step_of(tiny, method)
    recorder = as_on_a_gpu(recorded)
    orders = [
        ([[0, 2], [1, 3], [4, 5]], [0, 1, 2]),
        ([[0, 16], [2, 4], [4, 2]], [0, 1, 2]),  # other lengths, and one label alone: the same shape
        ([[7, 8], [9, 10, 11], [12]], [0, 1, 2]),  # unlike many rows
        ([[20, 21], [22, 23]], [2, 0]),  # one has stopped
    ]
    for batches, members in [item for item in orders for _ in range(4)]:
        wanted, got = (step(batches, members, RATES) for step in (plain, recorded))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for name, parameter in plain.parameters.items():
        torch.testing.assert_close(recorded.parameters[name], parameter, atol=2e-4, rtol=1e-3)
    assert recorder.recorded == 3  # the first two are of one shape
    assert recorder.repeated == 4 + 2 + 2 + 2


def test_what_cannot_be_recorded_is_not_tried_again_for_others(tiny: Backbone, capsys: pytest.CaptureFixture) -> None:
    def failing(work: object) -> Any:
        raise RuntimeError("no graphs here")

    step = step_of(tiny, METHODS[0])
    as_on_a_gpu(step)
    step.record = lambda: failing
    for members in ([0, 1, 2], [0, 2]):
        for _ in range(3):
            step([[0]] * len(members), members, RATES)
    assert capsys.readouterr().err.count("no graphs here") == 1


def test_forgotten_work_is_recorded_anew(tiny: Backbone) -> None:
    step = step_of(tiny, METHODS[0])
    recorder = as_on_a_gpu(step)
    for _ in range(2):
        for _ in range(3):
            step([[0], [1], [2]], [0, 1, 2], RATES)
        step.forget()
    assert recorder.recorded == 2


def test_a_step_is_freed_when_nobody_has_it(tiny: Backbone) -> None:
    """Not at some later moment, which may be in the midst of another's recording."""
    step = step_of(tiny, METHODS[0])
    as_on_a_gpu(step)
    step([[0], [1], [2]], [0, 1, 2], RATES)
    there = weakref.ref(step)
    gc.disable()
    try:
        del step
        assert there() is None
    finally:
        gc.enable()


class OnTheCpu(TorchDispatchMode):
    """The operations that touch a tensor of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [item for item in tree_leaves((args, kwargs, output)) if isinstance(item, torch.Tensor)]
        self.found += [str(func)] if any(item.device.type == "cpu" for item in tensors) else []
        return output


def elsewhere(step: Step) -> None:
    """Move a step to a device that has shapes and no numbers: to ask it for one is an error."""
    step.backbone = copy.copy(step.backbone)
    step.backbone.model = copy.deepcopy(step.backbone.model).to("meta")
    for module in step.backbone.model.modules():
        if isinstance(getattr(module, "preceding_bias", None), torch.Tensor):
            module.preceding_bias = module.preceding_bias.to("meta")
    step.module.to("meta")
    step.parameters = dict(step.module.named_parameters())


BATCHES = [([[0, 1], [2, 3], [4, 5]], [0, 1, 2]), ([[0, 1], [2]], [0, 2])]


@pytest.mark.parametrize(("batches", "members"), BATCHES)
@each_method
def test_a_recorded_step_neither_waits_nor_leaves_its_device(
    method: Method, batches: list[list[int]], members: list[int], tiny: Backbone
) -> None:
    step = step_of(tiny, method)
    step.few_shapes = True
    arguments = [None if item is None else item.to("meta") for item in step._arguments(batches, members)]
    elsewhere(step)
    with OnTheCpu() as on_the_cpu:
        losses, *gradients = step._work(*arguments)  # type: ignore[arg-type]
    assert losses is not None
    assert losses.shape == (len(members),)
    assert [gradient.shape for gradient in gradients if gradient is not None] == [
        p.shape for p in step.module.parameters()
    ]
    assert on_the_cpu.found == []


def test_that_test_can_fail(tiny: Backbone) -> None:
    step = step_of(tiny, METHODS[0])  # whose label pieces are counted
    arguments = step._arguments(*BATCHES[0])
    elsewhere(step)
    sent = [None if item is None else item.to("meta") for item in arguments]
    with pytest.raises((RuntimeError, NotImplementedError)):
        step._work(*sent)  # type: ignore[arg-type]


def test_weighted_shares_are_torchs_weighted_mean() -> None:
    """Of one piece a row: `cross_entropy` with a weight for each class, member by member."""
    torch.manual_seed(0)
    logits, gold = torch.randn(7, 3), torch.tensor([0, 1, 1, 2, 0, 1, 1])
    owners, classes = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([3.0, 0.5, 1.5])
    pieces = torch.nn.functional.cross_entropy(logits, gold, reduction="none")[:, None]
    shares = shares_of(gold[:, None], owners, 2, classes[gold])
    for member, loss in enumerate(member_losses(pieces, owners, shares, 2)):
        own = owners == member
        expected = torch.nn.functional.cross_entropy(logits[own], gold[own], weight=classes)
        torch.testing.assert_close(loss, expected)


def test_balanced_rows_weigh_as_scikit_learn_has_it(tiny: Backbone) -> None:
    examples = [Example.of(f"text {i}", label) for i, label in enumerate(["no"] * 5 + ["yes"])]
    split = Split("mine", "train", examples, (), ())
    labels = LabelWords.of(tiny, ("no", "yes"))
    rows = Rows.of(tiny, labels, split, split, 32)
    expected = compute_sample_weight("balanced", [example.label for example in examples])
    assert rows.weights(Recipe(learning_rates=(0.1,), class_weights="balanced")) == pytest.approx(expected.tolist())
    assert rows.weights(Recipe(learning_rates=(0.1,))) is None

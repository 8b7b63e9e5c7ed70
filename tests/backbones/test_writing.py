from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from preface.backbones import writing
from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.load import load_backbone
from preface.methods import PrefixTuning, PromptTuning
from preface.prompts import Prompts, stack
from preface.serving.texts import side_by_side
from tests.serving.making import made

TEXTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17, 5, 9]]
STEPS = 9


@pytest.fixture(scope="module", params=["t5-v1.0", "t5-v1.1", "causal"])
def backbone(request: pytest.FixtureRequest, checkpoints: dict[str, Path], causal_folder: Path) -> Backbone:
    folder = causal_folder if request.param == "causal" else checkpoints[request.param]
    return load_backbone(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(backbone: Backbone) -> Prompts:
    """A prompt for each text, of several kinds and lengths."""
    methods = [
        PrefixTuning(length=3, sites=(backbone.answer_site,)),
        PrefixTuning(length=5, sites=tuple(backbone.sites)),
        PromptTuning(length=2, init="random", place="after" if "after" in backbone.carriers else "before"),
        PromptTuning(length=4, init="random"),
    ]
    return stack([made(backbone, method, seed, ["yes", "no"]) for seed, method in enumerate(methods)])


def lead_in(backbone: Backbone) -> tuple[int, ...]:
    return (*backbone.lead_in("Answer:"), 21, 22)


def alone(backbone: Backbone, prompts: Prompts, row: int) -> list[int]:
    """The likeliest pieces after one text, each found by an answer from its beginning."""
    own, pieces = prompts.select([row]), list(lead_in(backbone))
    context = backbone.read(*backbone.pad([TEXTS[row]]), own)
    for _ in range(STEPS):
        scores = backbone.logits(context, torch.tensor([pieces]), own)[0, -1]
        pieces.append(int(scores.argmax()))
    return pieces[len(lead_in(backbone)) :]


def likeliest(scores: Tensor) -> Tensor:
    return scores.argmax(-1)


@torch.inference_mode()
def test_rows_that_begin_together_write_what_each_writes_alone(backbone: Backbone, prompts: Prompts) -> None:
    rows = torch.arange(4)
    context = backbone.read(*backbone.pad(TEXTS), prompts, rows)
    going, scores = writing.begin(backbone, context, lead_in(backbone), prompts, rows)
    pieces = [likeliest(scores)]
    while len(pieces) < STEPS:
        going, scores = writing.go_on(backbone, going, pieces[-1], prompts, rows)
        pieces.append(likeliest(scores))
    assert torch.stack(pieces, 1).tolist() == [alone(backbone, prompts, row) for row in range(4)]


@torch.inference_mode()
def test_rows_may_join_and_leave(backbone: Backbone, prompts: Prompts) -> None:
    """A row begins at each of four steps; the first ones leave while the others go on."""
    written: dict[int, list[int]] = {}
    going, rows = None, []
    for step in range(STEPS + 3):
        if going is not None:
            said = torch.tensor([written[row][-1] for row in rows])
            going, scores = writing.go_on(backbone, going, said, prompts, torch.tensor(rows))
            for row, piece in zip(rows, likeliest(scores).tolist(), strict=True):
                written[row].append(piece)
        if step < 4:
            own, which = prompts.select([step]), torch.tensor([0])
            context = backbone.read(*backbone.pad([TEXTS[step]]), own, which)
            new, scores = writing.begin(backbone, context, lead_in(backbone), own, which)
            going = new if going is None else writing.joined([going, new])
            rows.append(step)
            written[step] = likeliest(scores).tolist()
        stays = [place for place, row in enumerate(rows) if len(written[row]) < STEPS]
        if going is not None and len(stays) < len(rows):
            rows = [rows[place] for place in stays]
            going = going.select(stays) if stays else None
    assert [written[row] for row in range(4)] == [alone(backbone, prompts, row) for row in range(4)]
    assert going is None


@torch.inference_mode()
def test_writes_what_transformers_generates(backbone: Backbone) -> None:
    ids, mask = backbone.pad(TEXTS)
    context = backbone.read(ids, mask)
    going, scores = writing.begin(backbone, context, lead_in(backbone))
    pieces = [likeliest(scores)]
    for _ in range(STEPS - 1):
        going, scores = writing.go_on(backbone, going, pieces[-1])
        pieces.append(likeliest(scores))
    expected = backbone.generate(
        context, lead_in=lead_in(backbone), max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False
    )[:, -STEPS:]
    ended = (torch.stack(pieces, 1) == backbone.end).cumsum(1) > 0  # `min_new_tokens` keeps it from ending
    assert torch.equal(torch.stack(pieces, 1)[~ended], expected[~ended])


@torch.inference_mode()
def test_some_prompts_generate_about_the_same_texts(backbone: Backbone, prompts: Prompts) -> None:
    """Row b goes on from text b % N, also in a beam search."""
    two = prompts.select([0, 2])  # which leave reading alone
    ids, mask = backbone.pad(TEXTS)
    how = {"lead_in": lead_in(backbone), "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    for beams in (1, 3):
        rows = torch.arange(2).repeat_interleave(len(TEXTS))
        together = backbone.generate(backbone.read(ids, mask), two, rows, **how, num_beams=beams)
        apart = [
            backbone.generate(backbone.read(ids, mask), two.select([one]), **how, num_beams=beams) for one in (0, 1)
        ]
        assert torch.equal(together[:, -STEPS:], torch.cat([each[:, -STEPS:] for each in apart]))


@torch.inference_mode()
def test_what_was_read_is_laid_out_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(backbone, CausalBackbone):
        pytest.skip("an encoder's states are taken as they are")
    laid_out = MagicMock(side_effect=backbone._by_layer)
    monkeypatch.setattr(backbone, "_by_layer", laid_out)
    context = backbone.read(*backbone.pad(TEXTS))
    backbone.generate(context, lead_in=lead_in(backbone), max_new_tokens=STEPS, do_sample=False)
    assert laid_out.call_count == 1
    going, scores = writing.begin(backbone, context, lead_in(backbone))
    for _ in range(3):
        going, scores = writing.go_on(backbone, going, likeliest(scores))
    assert laid_out.call_count == 2
    writing.go_on(backbone, going.select([1, 3]), likeliest(scores)[[1, 3]])
    assert laid_out.call_count == 3


@torch.inference_mode()
def test_select_drops_what_only_others_needed(backbone: Backbone) -> None:
    context = side_by_side([backbone.read(*backbone.pad([text])) for text in TEXTS])
    going, _ = writing.begin(backbone, context, lead_in(backbone))
    few = going.select([1, 3])
    assert few.context.mask.shape == (2, 3)
    assert len(few) == 2


@torch.inference_mode()
@pytest.mark.parametrize("part", [1, 2, 5, 100])
def test_reading_in_parts_reads_the_same(backbone: Backbone, prompts: Prompts, part: int) -> None:
    for row in (None, 0, 1, 3):
        own = None if row is None else prompts.select([row])
        whole = backbone.read(*backbone.pad([TEXTS[0]]), own)
        *waiting, found = backbone.read_in_parts(TEXTS[0], part, own)
        assert found is not None
        assert waiting == [None] * len(waiting)
        assert torch.equal(found.mask, whole.mask)
        torch.testing.assert_close(
            found.states[found.mask.bool()], whole.states[whole.mask.bool()], atol=1e-4, rtol=1e-4
        )

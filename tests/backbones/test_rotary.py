"""Keys at other positions: as the model itself makes them there."""

from __future__ import annotations

import pytest
import torch

from preface.backbones import causal, rotary
from preface.backbones.causal_attention import Call
from preface.backbones.families import FAMILIES
from preface.errors import UserError
from tests.backbones.test_causal import pair


@pytest.mark.parametrize("steps", [7, -3])
@pytest.mark.parametrize("kind", FAMILIES)
def test_moved_keys_are_those_that_the_model_makes_there(kind: str, steps: int) -> None:
    """Of a text whose positions all begin later: only distances count, so that nothing else of it changes."""
    backbone, _ = pair(kind)
    if backbone.family.positions == "learned":
        keys = torch.randn(2, 2, 3, 4)
        assert torch.equal(backbone.moved(keys, steps), keys)
        return
    made = []
    for start in (4, 4 + steps):
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        positions = torch.arange(start, start + 5)[None]
        with torch.no_grad():
            backbone._run(backbone.embed(positions + 9 - start), Call(positions, None, positions, (), made=found))
        made.append(torch.cat([keys for keys, _ in found]))  # [L, H, 5, e]
    torch.testing.assert_close(backbone.moved(made[0], steps), made[1], atol=1e-4, rtol=1e-4)


def test_a_way_of_turning_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _ = pair("llama")
    monkeypatch.setattr(rotary, "_turns", lambda model, width, steps: iter([lambda keys: keys]))
    assert causal.turn_between is rotary.turn_between
    with pytest.raises(UserError, match="in a way that is not known"):
        backbone.moved(torch.randn(4, 2, 3, 8), 5)

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import pytest
import torch

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning, PromptTuning
from preface.serving.asked import Piece, Style
from preface.serving.engine import Engine
from preface.serving.store import Store
from tests.serving.making import put

TEXTS = ["a fine warm film", "dull, cold and long", "one more of these things that nobody wants", "x and y"]


@pytest.fixture(scope="session")
def folder(served_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writing")
    put(folder / "answer", served_backbone, PrefixTuning(length=3, sites=(served_backbone.answer_site,)), 1, "squad")
    put(folder / "before", served_backbone, PromptTuning(length=4, init="random"), 2, "squad")
    put(folder / "labels", served_backbone, PrefixTuning(length=5, sites=tuple(served_backbone.sites)), 3)
    return folder


@pytest.fixture
def engine(served_backbone: Backbone, folder: Path) -> Iterator[Engine]:
    with Engine(Store(folder, served_backbone)) as engine:
        yield engine


def asked_of(engine: Engine, model: str, text: str) -> str | dict[str, str]:
    return {"question": text, "context": TEXTS[0]} if model in ("answer", "before") else text


def alone(engine: Engine, model: str, text: str, most: int) -> list[int]:
    """The likeliest pieces, each found by an answer from its beginning."""
    backbone = engine.backbone
    if model == engine.bare:
        ids, lead_in = backbone.continued(text)
        prompts = None
    else:
        served = engine.store.get(model)
        (ids,), _ = served.pieces(backbone, [asked_of(engine, model, text)])
        lead_in, prompts = served.wanted.lead_in, served.prompts
    pieces = list(lead_in)
    with torch.inference_mode():
        context = backbone.read(*backbone.pad([ids]), prompts)
        while len(pieces) < len(lead_in) + most:
            pieces.append(int(backbone.logits(context, torch.tensor([pieces]), prompts)[0, -1].argmax()))
            if pieces[-1] == backbone.end:
                return pieces[len(lead_in) : -1]
    return pieces[len(lead_in) :]


def decoded(engine: Engine, ids: list[int]) -> str:
    return str(engine.backbone.tokenizer.decode(ids, skip_special_tokens=True))


def test_many_that_come_and_go_write_what_each_writes_alone(engine: Engine) -> None:
    drawn = random.Random(0)
    models = ["answer", "before", "labels", engine.bare]
    wanted = [(drawn.choice(models), drawn.choice(TEXTS), drawn.choice([1, 3, 8, 13])) for _ in range(60)]
    futures = [
        engine.write(model, asked_of(engine, model, text), Style(most), caller=model) for model, text, most in wanted
    ]
    for (model, text, most), future in zip(wanted, futures, strict=True):
        written, expected = future.result(60), alone(engine, model, text, most)
        assert written.text == decoded(engine, expected)
        assert "".join(piece.text for piece in written.pieces) == written.text
        assert written.finish == ("length" if len(expected) == most else "stop")
    assert not engine.writers.busy


def test_labels_and_texts_beside_each_other(engine: Engine) -> None:
    writing = [engine.write("answer", asked_of(engine, "answer", text), Style(20)) for text in TEXTS]
    labels = engine.ask(["labels"], TEXTS).result(60)
    assert [len(row) for row in labels.answers] == [1] * 4
    for text, future in zip(TEXTS, writing, strict=True):
        assert future.result(60).text == decoded(engine, alone(engine, "answer", text, 20))


def test_pieces_are_heard_as_they_come(engine: Engine) -> None:
    heard: list[Piece] = []
    written = engine.write(engine.bare, TEXTS[0], Style(12, likeliest=3), on_piece=heard.append).result(60)
    assert heard == written.pieces
    for piece in heard:
        assert len(piece.likeliest) <= 3
        assert max(piece.likeliest.values()) == pytest.approx(piece.log_probability, abs=1e-5)


def test_a_listener_that_fails_ends_its_own_text_alone(engine: Engine) -> None:
    def failing(piece: Piece) -> None:
        raise ValueError("not heard")

    bad = engine.write(engine.bare, TEXTS[0], Style(9), on_piece=failing)
    good = engine.write(engine.bare, TEXTS[1], Style(9))
    with pytest.raises(ValueError, match="not heard"):
        bad.result(60)
    assert good.result(60).text == decoded(engine, alone(engine, engine.bare, TEXTS[1], 9))


def test_stops_before_a_string(engine: Engine) -> None:
    whole = engine.write(engine.bare, TEXTS[0], Style(12)).result(60).text
    stop = whole[len(whole) // 2 :][:3]
    heard: list[Piece] = []
    written = engine.write(engine.bare, TEXTS[0], Style(12, stop=(stop,)), on_piece=heard.append).result(60)
    assert written.text == whole[: whole.index(stop)]
    assert written.finish == "stop"
    assert "".join(piece.text for piece in heard) == written.text


def test_draws_by_temperature_and_seed(engine: Engine) -> None:
    def write(seed: int, **style: float) -> str:
        return engine.write(engine.bare, TEXTS[0], Style(8, seed=seed, **style)).result(60).text  # type: ignore[arg-type]

    assert write(1, temperature=5.0) == write(1, temperature=5.0)
    assert len({write(seed, temperature=5.0) for seed in range(4)}) > 1
    greedy = write(0)
    assert {write(seed, temperature=5.0, top_p=1e-6) for seed in range(3)} == {greedy}


@pytest.mark.parametrize(
    "style", [Style(4, temperature=1e-40), Style(4, temperature=1, top_p=1e-50), Style(4, temperature=100, seed=1)]
)
def test_no_choice_is_too_extreme(engine: Engine, style: Style) -> None:
    assert engine.write(engine.bare, TEXTS[0], style).result(60).pieces
    assert engine.thread.is_alive()


def test_a_style_that_cannot_be_fails_its_own_text_alone(engine: Engine) -> None:
    bad = [
        engine.write(engine.bare, TEXTS[0], Style(5, seed=2**70, temperature=1)),
        engine.write(engine.bare, TEXTS[1], Style(5, likeliest=10**6)),
    ]
    good = engine.write(engine.bare, TEXTS[2], Style(5))
    for future in bad:
        with pytest.raises(Exception, match=r"."):
            future.result(60)
    assert good.result(60).text == decoded(engine, alone(engine, engine.bare, TEXTS[2], 5))


def test_what_is_held_back_for_a_stop_is_said_at_the_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text ends where the stop has begun: with `end` in the place of the piece that would have gone on."""
    backbone = engine.backbone
    written = engine.write(engine.bare, TEXTS[0], Style(6)).result(60)
    ids = alone(engine, engine.bare, TEXTS[0], 6)
    whole = decoded(engine, ids[:-1])
    monkeypatch.setattr(type(backbone), "end", property(lambda self: ids[-1]))
    if ids[-1] in ids[:-1]:
        pytest.skip("the last piece comes before, too")
    assert written.text.startswith(whole)
    heard: list[Piece] = []
    again = engine.write(engine.bare, TEXTS[0], Style(9, stop=(whole[-1] + "never",)), on_piece=heard.append).result(60)
    assert again.text == whole == "".join(piece.text for piece in heard)
    assert again.finish == "stop"


def test_more_than_there_are_places_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preface.serving.engine.MOST_WRITERS", 3)
    futures = [engine.write(engine.bare, TEXTS[number % 4], Style(6), caller=str(number % 2)) for number in range(20)]
    expected = [decoded(engine, alone(engine, engine.bare, text, 6)) for text in TEXTS]
    for number, future in enumerate(futures):
        assert future.result(60).text == expected[number % 4]


def test_nobody_waits_for_ever_where_everything_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.writers, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.write(engine.bare, TEXTS[0], Style(6)).result(60)
    monkeypatch.undo()
    assert engine.write(engine.bare, TEXTS[0], Style(6)).result(60).pieces


def test_a_cancelled_text_leaves(engine: Engine) -> None:
    begun = Event()
    long = engine.write(engine.bare, TEXTS[0], Style(5_000), on_piece=lambda piece: begun.set())
    assert begun.wait(60)
    assert long.cancel()
    assert engine.write(engine.bare, TEXTS[1], Style(2)).result(60).pieces
    with pytest.raises(CancelledError):
        long.result()
    while engine.writers.busy:
        pass


def test_what_fails_harms_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    write, first = engine.backbone.write, int(engine.store.get("before").prompts.size)
    assert first == 1

    def failing(going: object, embedded: torch.Tensor, real: torch.Tensor, prompts: object, rows: object) -> object:
        if len(embedded) > 1 and embedded.shape[1] == 1:
            raise RuntimeError("too many")
        return write(going, embedded, real, prompts, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.backbone, "write", failing)
    futures = [engine.write(engine.bare, text, Style(6)) for text in TEXTS]
    texts = [future.result(60).text for future in futures]
    monkeypatch.undo()
    assert texts == [decoded(engine, alone(engine, engine.bare, text, 6)) for text in TEXTS]


def test_mistakes(engine: Engine, served_folder: Path, served_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="goes on from a text"):
        engine.write(engine.bare, {"text": "x"})
    with pytest.raises(UserError, match="at most 2,048 pieces"):
        engine.write(engine.bare, "word " * 3000)
    with pytest.raises(UserError, match="writes its answers"):
        engine.ask(["answer"], ["x"])
    with Engine(Store(served_folder, served_backbone)) as other:
        with pytest.raises(UserError, match="an ensemble writes no text"):
            other.write("several", "x")
        with pytest.raises(UserError, match="by vectors or questions writes no text"):
            other.write("vectors", "x")

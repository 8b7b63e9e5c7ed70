from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.methods import PrefixTuning
from preface.serving.asked import Answer, Item, Style
from preface.serving.engine import Engine
from preface.serving.store import Store
from preface.serving.waiting import ClosedError, FullError
from preface.tasks.label_sets import as_text
from tests.serving.making import held_up, put

TEXTS = [
    "a fine warm film",
    "dull, cold and long, and then some more of it until nobody is left in the hall to tell how it ended for anybody",
    "one more of these",
    "x",
    "it is what it is, and it is not much, to be fair to all who made it",
]


@pytest.fixture
def engine(store: Store) -> Iterator[Engine]:
    with Engine(store) as engine:
        yield engine


def alone(folder: Path, backbone: Backbone, texts: list[str]) -> list[dict[str, Any]]:
    """What `predict` says of texts, one by one."""
    return [line for text in texts for line in preface.predict(folder, [text], backbone=backbone)]


def agree(answer: Answer, line: dict[str, Any]) -> None:
    assert answer.probabilities == pytest.approx(line["probabilities"], abs=2e-4)
    assert list(answer.probabilities) == list(line["probabilities"])
    assert answer.label == line.get("label", as_text(line.get("labels", ())))
    assert answer.cut == line.get("cut", False)


def test_all_prompts_on_all_texts_say_what_each_says_alone(engine: Engine, served_folder: Path) -> None:
    names = engine.store.names()
    answers = engine.ask(names, TEXTS).result(60).answers
    for place, name in enumerate(names):
        expected = alone(served_folder / name, engine.backbone, TEXTS)
        for number, said in enumerate(expected):
            assert answers[number][place].model == name
            agree(answers[number][place], said)


def test_requests_of_many_callers_at_once_get_their_own_answers(engine: Engine, served_folder: Path) -> None:
    names = engine.store.names()
    expected = {name: alone(served_folder / name, engine.backbone, TEXTS) for name in names}
    futures = [
        (name, number, engine.ask([name], [TEXTS[number]], caller=str(number % 3)))
        for turn in range(4)
        for number in range(len(TEXTS))
        for name in (names if turn % 2 else reversed(names))
    ]
    for name, number, future in futures:
        agree(future.result(60).answers[0][0], expected[name][number])
    assert engine.counts.turns < len(futures) / 4  # they went together


def test_a_text_is_read_once_for_all_prompts_that_leave_reading_alone(engine: Engine) -> None:
    first = engine.ask(["answer-a", "answer-b", "several"], TEXTS[:1]).result(60)
    assert engine.counts.texts_read == 1
    assert [answer.kept for answer in first.answers[0]] == [False] * 3
    again = engine.ask(["answer-b"], TEXTS[:1]).result(60)
    assert engine.counts.texts_read == 1
    assert again.answers[0][0].kept
    engine.ask(["before"], TEXTS[:1]).result(60)
    assert engine.counts.texts_read == 2


def test_what_is_kept_keeps_to_its_budget(store: Store, served_folder: Path) -> None:
    with Engine(store, keep_texts=1) as engine:
        for _ in range(2):
            answers = engine.ask(["answer-a"], TEXTS).result(60).answers
            for row, said in zip(answers, alone(served_folder / "answer-a", store.backbone, TEXTS), strict=True):
                agree(row[0], said)
        assert len(engine.kept) == 1


def test_long_texts_are_read_in_parts_and_do_not_hold_up_short_ones(engine: Engine, served_folder: Path) -> None:
    names = engine.store.names()
    expected = {name: alone(served_folder / name, engine.backbone, TEXTS) for name in names}
    engine.block = 7
    order: list[str] = []
    begun = Event()
    blocked = engine.write(engine.bare, "x y z", Style(4), on_piece=lambda piece: begun.wait(60) and None)
    long = engine.ask(names, [TEXTS[1]])
    long.add_done_callback(lambda _: order.append("long"))
    short = engine.ask(["answer-a"], ["x"])
    short.add_done_callback(lambda _: order.append("short"))
    begun.set()
    for name, answer in zip(names, long.result(60).answers[0], strict=True):
        agree(answer, expected[name][1])
    assert blocked.result(60)
    assert short.result(60)
    if type(engine.backbone).__name__ == "CausalBackbone":
        assert order == ["short", "long"]


def test_rows_with_the_task_s_fields(engine: Engine) -> None:
    asked = engine.ask(["answer-a"], [{"text": TEXTS[0], "more": 3}, TEXTS[0]]).result(60).answers
    assert asked[0][0].probabilities == pytest.approx(asked[1][0].probabilities, abs=1e-4)


def test_mistakes(engine: Engine) -> None:
    with pytest.raises(UserError, match="there is none of that name"):
        engine.ask(["nothing"], ["x"])
    with pytest.raises(UserError, match="there is none of that name"):
        engine.ask(["../answer-a"], ["x"])
    with pytest.raises(UserError, match="text 2: the field 'text' is empty"):
        engine.ask(["answer-a"], ["x", " "])
    with pytest.raises(UserError, match="at least one prompt and one text"):
        engine.ask([], ["x"])


def test_a_cancelled_request_frees_its_place(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = held_up(engine, monkeypatch)
    first = engine.ask(["answer-a"], ["one"])
    assert begun.wait(60)
    second, third = engine.ask(["answer-a"], ["two"]), engine.ask(["answer-a"], ["three"])
    assert second.cancel()
    go_on.set()
    assert first.result(60)
    assert third.result(60)
    with pytest.raises(CancelledError):
        second.result()
    assert engine.counts.answers == 2


def test_no_more_wait_than_may_and_closing_answers_what_was_accepted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(store, most_waiting=2)
    begun, go_on = held_up(engine, monkeypatch)
    futures = [engine.ask(["answer-a"], ["one"])]
    assert begun.wait(60)
    futures.append(engine.ask(["answer-a"], ["two", "three"]))
    with pytest.raises(FullError):
        engine.ask(["answer-a"], ["four"])
    with pytest.raises(UserError, match=r"3 texts.*2 may wait; ask in parts"):
        engine.ask(["answer-a"], ["four", "five", "six"])
    futures.append(engine.ask(["answer-a"], ["four", "five"], caller="another"))
    closing = Thread(target=engine.close)
    closing.start()
    while not engine.waiting.closed:
        pass
    with pytest.raises(ClosedError):
        engine.ask(["answer-a"], ["five"])
    go_on.set()
    closing.join(60)
    assert [len(future.result(0).answers) for future in futures] == [1, 2, 2]


def test_a_lone_request_waits_for_none_and_the_next_ones_for_as_many_as_there_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(store, wait=30.0) as engine:
        turns: list[int] = []
        turn = engine._turn

        def counted(items: Sequence[Item]) -> None:
            turns.append(len(items))
            turn(items)

        monkeypatch.setattr(engine, "_turn", counted)
        begun, go_on = held_up(engine, monkeypatch)
        first = engine.ask(["answer-a"], ["one"])
        assert begun.wait(60)
        pair = [engine.ask(["answer-a"], [text], caller=text) for text in ("two", "three")]
        go_on.set()
        assert first.result(20)  # long before half a minute
        assert all(each.result(20) for each in pair)
        again = [engine.ask(["answer-a"], ["four"])]
        Event().wait(0.2)
        assert not again[0].done()
        again.append(engine.ask(["answer-a"], ["five"]))
        assert all(each.result(20) for each in again)
        assert turns == [1, 2, 2]


def test_what_fails_harms_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = engine.store.get("before").prompts.embeddings
    assert bad is not None
    read = engine.backbone.read

    def failing(ids: torch.Tensor, mask: torch.Tensor, prompts: object = None) -> object:
        if prompts is not None:
            raise RuntimeError("out of memory")
        return read(ids, mask)

    monkeypatch.setattr(engine.backbone, "read", failing)
    futures = [engine.ask([name], ["one"]) for name in ("answer-a", "before", "answer-b")]
    assert futures[0].result(60)
    assert futures[2].result(60)
    with pytest.raises(RuntimeError, match="out of memory"):
        futures[1].result(60)
    assert engine.ask(["answer-a"], ["two"]).result(60)


def test_what_was_answered_before_another_failed_is_answered_once(
    engine: Engine, served_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups of one batch: the second fails at first, and all are asked again."""
    answer, failed = engine._answer, []

    def failing(questions: Any, contexts: Any) -> None:
        if questions[0].served[0].name == "several-before" and not failed:
            failed.append(True)
            raise RuntimeError("for once")
        answer(questions, contexts)

    monkeypatch.setattr(engine, "_answer", failing)
    said = engine.ask(["answer-a", "several-before"], TEXTS).result(60).answers
    assert failed
    for place, name in enumerate(("answer-a", "several-before")):
        for row, expected in zip(said, alone(served_folder / name, engine.backbone, TEXTS), strict=True):
            agree(row[place], expected)


def test_a_request_keeps_the_version_that_it_began_with(
    tmp_path: Path, served_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = PrefixTuning(length=3, sites=(served_backbone.answer_site,))
    put(tmp_path / "one", served_backbone, method, 1)
    before = alone(tmp_path / "one", served_backbone, TEXTS)
    with Engine(Store(tmp_path, served_backbone)) as engine:
        begun, go_on = held_up(engine, monkeypatch)
        first = engine.ask(["one"], TEXTS[:1])
        assert begun.wait(60)
        second = engine.ask(["one"], TEXTS[:1])
        put(tmp_path / "one", served_backbone, method, 2)
        third = engine.ask(["one"], TEXTS[:1])
        go_on.set()
        agree(first.result(60).answers[0][0], before[0])
        agree(second.result(60).answers[0][0], before[0])
        monkeypatch.undo()
        after = alone(tmp_path / "one", served_backbone, TEXTS)
        assert after[0]["probabilities"] != pytest.approx(before[0]["probabilities"], abs=1e-2)
        agree(third.result(60).answers[0][0], after[0])

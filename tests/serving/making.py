"""Stores of prompts that no training has made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest
import torch

from preface.backbones.base import Backbone
from preface.methods import METHODS, Method, PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.prompts import Prompts
from preface.records.card import Ensemble, Member, save_ensemble, save_prompt
from preface.serving.engine import Engine
from preface.tasks import load_task
from tests.records.making import card_of


def made(backbone: Backbone, method: Method, seed: int, words: Sequence[str]) -> Prompts:
    """A prompt with large random numbers, so that what is mixed up shows."""
    with torch.no_grad():
        initializer = Initializer.parse("random", words)
        prompts = method.build(backbone, initializer, [seed])()
    generator = torch.Generator().manual_seed(seed)
    return Prompts(
        {
            name: tensor + 3 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
            for name, tensor in prompts.tensors.items()
        }
    )


def put(folder: Path, backbone: Backbone, method: Method, seed: int = 0, task: str = "film") -> Path:
    """A prompt in a folder of its own."""
    the_task = load_task(task)
    card = card_of(backbone, method, task=the_task, label_words=the_task.label_words, max_input_tokens=24)
    save_prompt(folder, made(backbone, method, seed, the_task.label_words), card)
    return folder


def put_multi_label(folder: Path, backbone: Backbone, method: Method, seed: int, labels: int) -> Path:
    """A prompt that may give a text any number of some labels."""
    words = ("joy", "anger", "fear", "love")[:labels]
    task = load_task("film").model_copy(
        update={"multi_label": True, "labels": {word: word for word in words}, "metric": "micro_f1", "name": "moods"}
    )
    card = card_of(backbone, method, task=task, label_words=words, max_input_tokens=24)
    save_prompt(folder, made(backbone, method, seed, words), card)
    return folder


def put_ensemble(folder: Path, backbone: Backbone, methods: Sequence[Method]) -> Path:
    """Prompts that answer as one, in a folder."""
    size = len(methods)
    members = tuple(Member(number, 0.1, number, 0.5, 0.7, 1) for number in range(size))
    weights = tuple((number + 1) / (size * (size + 1) / 2) for number in range(size))
    ensemble = Ensemble(combine="weighted", weights=weights, members=members, runs=("",) * size)
    words = load_task("film").label_words
    several = [made(backbone, method, 100 + number, words) for number, method in enumerate(methods)]
    save_ensemble(folder, several, card_of(backbone, methods[0], ensemble=ensemble, max_input_tokens=24))
    return folder


def mixed(folder: Path, backbone: Backbone) -> list[str]:
    """Prompts of every kind: read with or not, long and short, of two tasks, ensembles, label vectors."""
    site, warp = backbone.answer_site, METHODS["warp"]
    put(folder / "answer-a", backbone, PrefixTuning(length=3, sites=(site,)), 1)
    put(folder / "answer-b", backbone, PrefixTuning(length=5, sites=(site,)), 2)
    put(folder / "answer-trec", backbone, PrefixTuning(length=2, sites=(site,)), 3, "trec")
    put(folder / "everywhere", backbone, PrefixTuning(length=4, sites=tuple(backbone.sites)), 4)
    put(folder / "before", backbone, PromptTuning(length=6, init="random"), 5)
    put_multi_label(folder / "moods", backbone, PrefixTuning(length=3, sites=(site,)), 9, 4)
    put_multi_label(folder / "moods-before", backbone, PromptTuning(length=3, init="random"), 10, 3)
    put_multi_label(folder / "moods-few", backbone, PrefixTuning(length=5, sites=(site,)), 11, 2)
    put(folder / "vectors", backbone, warp(length=2, init="random"), 6)
    if "after" in backbone.carriers:
        put(folder / "after", backbone, PromptTuning(length=3, place="after", init="random"), 7)
        put(folder / "vectors-after", backbone, warp(length=2, place="after", init="random"), 8)
    put_ensemble(folder / "several", backbone, [PrefixTuning(length=n, sites=(site,)) for n in (2, 4, 3)])
    put_ensemble(folder / "several-before", backbone, [PromptTuning(length=n, init="random") for n in (3, 1)])
    return sorted(path.name for path in folder.iterdir())


def held_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """An engine whose next reading begins, and waits: `(it has begun, let it go on)`."""
    begun, go_on = Event(), Event()
    read = engine.backbone.read

    def slow(*args: object) -> object:
        begun.set()
        assert go_on.wait(60)
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.backbone, "read", slow)
    return begun, go_on

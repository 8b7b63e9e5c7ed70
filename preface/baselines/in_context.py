"""In-context learning: labelled examples before the text, and nothing trained (Brown et al. 2020)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, ClassVar

import torch
from pydantic import Field

from preface.backbones.base import Backbone
from preface.baselines.column import Setting, Trained, each_seed
from preface.errors import UserError
from preface.labelling.answers import predictions_on
from preface.labelling.options import Calibration
from preface.labelling.subjects import MAX_INPUT_TOKENS
from preface.methods.init import key_values_of, text_ids
from preface.prompts import Prompts
from preface.records.results import Cell
from preface.tasks import Example, Task, render
from preface.tasks.task import CHAT, CUE, SENTINEL


class InContext(Trained):
    """k demonstrations of each label before every text; each seed draws its own, of all labelled rows."""

    kind: ClassVar[str] = "in-context"
    backbone: str
    seeds: int | tuple[int, ...] = 3
    shots: int = Field(4, ge=1)
    """k, demonstrations of each label."""
    window: int = Field(1024, ge=16)
    """Pieces of all demonstrations together, at most: each has an equal share, and its text is cut to that."""
    calibration: Calibration = "none"
    max_input_tokens: int = Field(MAX_INPUT_TOKENS, ge=2)
    """Of a text, the demonstrations not among them."""

    @classmethod
    def accepts(cls, fields: Mapping[str, Any]) -> set[str]:
        return super().accepts(fields) - {"train_rows"}  # its rows are `shots`

    @property
    def reads(self) -> Sequence[str]:
        return ()

    def cells(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[list[Cell]]:
        backbone, trained_on = setting.backbone(self.backbone), setting.task(self.train_task)
        seeds = each_seed(self.seeds)
        drawn = [
            self.demonstrations(backbone, setting.drawn(trained_on, self.shots, seed).examples, trained_on)
            for seed in seeds
        ]
        prompts = [before_each_text(backbone, "".join(texts)) for texts in drawn]
        for task in tasks:
            examples, words = setting.split(task, "test").examples, trained_on.words_for(task)
            began = time.perf_counter()
            predictions, cut = predictions_on(
                backbone,
                examples,
                words,
                prompts,
                max_input_tokens=self.max_input_tokens,
                cue=trained_on.cue,
                title=f"{task.name} · {self.label}",
                calibration=self.calibration,
                goes_on=True,
            )
            seconds = (time.perf_counter() - began) / len(prompts)
            yield [
                self.cell(
                    task,
                    examples,
                    [prediction.label for prediction in given],
                    words=words,
                    trained_on=trained_on.name,
                    seconds=seconds,
                    backbone=backbone,
                    seed=seed,
                    details={"demonstrations": len(texts), "cut_inputs": cut},
                )
                for seed, given, texts in zip(seeds, predictions, drawn, strict=True)
            ]

    def demonstrations(self, backbone: Backbone, rows: Sequence[Example], task: Task) -> list[str]:
        """Texts with their answers, labels in turn, as many as fit into the window."""
        cue = CUE if task.cue in (CHAT, SENTINEL) else task.cue
        by_label = [[example for example in rows if example.label == word] for word in task.label_words]
        chosen = list(filter(None, chain.from_iterable(zip_longest(*by_label))))

        def pieces(texts: Sequence[str], most: int) -> tuple[list[list[int]], list[bool]]:
            every = backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            return [ids[:most] for ids in every], [len(ids) > most for ids in every]

        share = self._room(backbone) // max(1, len(chosen))
        texts = []
        for example in chosen:
            answered = f"\n{cue} {example.label}\n\n"
            left = share - len(text_ids(backbone, answered))
            if left < 1:
                raise UserError(f"in-context: {len(chosen)} demonstrations have {share} pieces each; give fewer shots")
            (ids,), (cut,) = render(pieces, [example], left)
            texts.append((str(backbone.tokenizer.decode(ids)) if cut else example.text) + answered)
        return texts

    def _room(self, backbone: Backbone) -> int:
        """The window, or what a model's positions leave of it beside a text."""
        limit = getattr(backbone, "position_limit", None)
        return self.window if limit is None else min(self.window, limit - self.max_input_tokens)


@torch.no_grad()
def before_each_text(backbone: Backbone, text: str) -> Prompts:
    """A prompt that is this text before every other: its keys and values where texts are read from left to right, which
    are had once; else its embeddings."""
    ids = torch.tensor([*backbone.begin, *text_ids(backbone, text)], device=backbone.device)
    embeddings = backbone.embeddings[ids].float()
    if "input" in backbone.sites:
        return Prompts.one(key_values_of(backbone, ["input"], embeddings))
    return Prompts.one({"embeddings": embeddings.cpu()})

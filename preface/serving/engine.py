"""Requests for any mix of prompts, answered together as they come: a text is read once, and all its prompts answer.

One thread has the model. Each turn it takes what waits, whoever had least first, reads the texts that it does not know
yet in one batch, and answers them under all their prompts in as few others as there are shapes.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock, Thread
from typing import Any

import torch
from torch import Tensor

from preface.backbones.base import Context
from preface.backbones.batching import by_length
from preface.backbones.contexts import BLOCK, GPU_BLOCK
from preface.errors import UserError, first_line
from preface.labelling.free_text import FreeText
from preface.labelling.labeller import Labeller, predictions_of
from preface.labelling.multi_label import MultiLabel
from preface.labelling.voting import combined
from preface.prompts import stack
from preface.serving.asked import (
    ONE_OF_WORDS,
    Answer,
    Continuation,
    Item,
    Piece,
    Question,
    Request,
    Result,
    Style,
    Written,
    answered_as,
    keys_of,
)
from preface.serving.kept import Kept
from preface.serving.store import Served, Store, Text
from preface.serving.texts import Key, apart, side_by_side
from preface.serving.waiting import Waiting
from preface.serving.writers import MOST as MOST_WRITERS
from preface.serving.writers import Writers
from preface.tasks.label_sets import as_set
from preface.tasks.lines import refuse_half_characters
from preface.terminal.progress import warn

WAIT = 0.008
"""Seconds that an idle engine waits, at most, until as many requests have come as it last had together. Over HTTP the
next ones of callers who were answered together come one by one: without waiting for them, batches stay half as large
(nano, eight callers of one text: HTTP cost 33 % over the engine, and costs 11 to 17 %)."""
KEEP_TEXTS = 2**31
"""Bytes of what was read of texts that are kept: under another prompt they are not read again."""
MOST_WAITING = 10_000
"""Texts of one caller that may wait."""
MOST_PIECES = 2_048
"""Of a text that the bare backbone goes on from."""
STACKS = 2**28
"""Bytes of prompts that are kept side by side, as they were last asked together."""


@dataclass
class Counts:
    """What an engine has done."""

    requests: int = 0
    texts: int = 0
    texts_read: int = 0
    pieces_read: int = 0
    answers: int = 0
    turns: int = 0
    reading: float = 0.0
    """Seconds."""
    answering: float = 0.0
    by_prompt: dict[str, int] = field(default_factory=dict)


class Engine:
    """A backbone, a store of its prompts, and the thread that answers."""

    def __init__(
        self,
        store: Store,
        keep_texts: int = KEEP_TEXTS,
        most_waiting: int = MOST_WAITING,
        wait: float = WAIT,
    ) -> None:
        """
        Args:
            keep_texts: bytes of contexts that are kept.
            most_waiting: texts of one caller that may wait; beyond, `ask` raises `waiting.FullError`.
            wait: seconds that an idle engine waits, at most, until as many requests have come as it last had together.
        """
        self.store, self.backbone, self.wait = store, store.backbone, wait
        self.bare = store.bare
        self.kept: Kept[Key, Context] = Kept(keep_texts, lambda context: context.states.nbytes)
        self.waiting: Waiting[Item] = Waiting(most_waiting)
        self.to_write: Waiting[Item] = Waiting(most_waiting, self.waiting.changed)
        """Texts to be gone on from."""
        self.writers = Writers(self.backbone)
        self.long: deque[tuple[Item, Iterator[None]]] = deque()
        """Texts that are being read in parts."""
        self.block = BLOCK if self.backbone.device.type == "cpu" else GPU_BLOCK
        self.labellers: Kept[tuple[Served, ...], Labeller] = Kept(STACKS, lambda labeller: labeller.prompts.bytes)
        self.counts = Counts()
        self.together = 1
        """Requests that were taken at once, lately."""
        self.tokenizing = Lock()
        self.thread = Thread(target=self._run, name="preface-engine", daemon=True)
        self.thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what was accepted, and stop; `ask` raises `waiting.ClosedError` from now on."""
        self.to_write.close()
        self.waiting.close()
        self.thread.join()

    @property
    def _in_hand(self) -> int:
        """Items that have been taken, and wait again: to be read on, or to be written."""
        return len(self.long) + len(self.writers.waiting)

    def ask(
        self, models: Sequence[str], texts: Sequence[Text], caller: str = "", zero_shot: bool = False
    ) -> Future[Result]:
        """Have texts, or rows with the fields of the prompts' task, answered under all of some prompts.

        A future that is cancelled frees its place.

        Args:
            models: the prompts' names.
            texts: for each of them.
            caller: of whom none waits long because another asks much.
            zero_shot: answer without a prompt too, once for each task of the prompts.

        Raises:
            UserError: an unknown or damaged prompt, a prompt that writes its answers, a text that is empty, more texts
                than may ever wait.
            FullError, ClosedError: of `waiting`.
        """
        served = [self.store.get(name) for name in models]
        for each in served:
            if isinstance(each.wanted, FreeText):
                raise UserError(f"prompt {each.name}: writes its answers; ask it for a completion")
        if zero_shot:
            served += {each.card.task.name: each.without_prompt for each in reversed(served)}.values()
        if not served or not texts:
            raise UserError("a request needs at least one prompt and one text")
        request = Request([[None] * len(served) for _ in texts], left=0)
        questions = self._questions(request, served, texts, caller)
        if len(questions) > (most := self.waiting.most):
            raise UserError(f"{len(questions):,} texts, as each prompt reads them: {most:,} may wait; ask in parts")
        request.left = len(questions)
        self.waiting.put(questions, len(self.to_write) + self._in_hand)
        self.counts.requests += 1
        self.counts.texts += len(texts)
        return request.future

    def _questions(self, request: Request, served: Sequence[Served], texts: Sequence[Text], caller: str) -> list[Item]:
        """Of each text those prompts together that read the same pieces of it alike."""
        alike: dict[tuple[Any, ...], Question] = {}
        written: dict[Any, tuple[list[list[int]], list[bool]]] = {}
        for place, each in enumerate(served):
            task = each.card.task
            how = (task.name, task.template, each.question, each.card.max_input_tokens)
            if how not in written:
                with self.tokenizing:
                    written[how] = each.pieces(self.backbone, texts)
            for number, (ids, cut) in enumerate(zip(*written[how], strict=True)):
                keys = keys_of(ids, each)
                together = (number, keys[0], answered_as(each))
                if together not in alike:
                    alike[together] = Question(caller, ids, cut, keys, request.future, request, number)
                alike[together].places.append(place)
                alike[together].served += (each,)
        return list(alike.values())

    def write(
        self,
        model: str,
        text: Text,
        style: Style | None = None,
        caller: str = "",
        on_piece: Callable[[Piece], None] | None = None,
    ) -> Future[Written]:
        """Have a prompt write its answer about a text; or the bare backbone, by its own name, go on from it.

        Args:
            model: a prompt, or the backbone.
            text: or a row with the fields of the prompt's task.
            style: default: the likeliest pieces, as many as the prompt's task allows.
            caller: as for `ask`.
            on_piece: hears each piece as it is written, in the engine's thread: it may not wait.

        Raises:
            UserError: as `ask`; a prompt that cannot write, such as one with label vectors.
            FullError, ClosedError: of `waiting`.
        """
        served = None if model == self.bare else self.store.get(model)
        if served is None:
            if not isinstance(text, str) or not text:
                raise UserError(f"{model}: goes on from a text, and there is none")
            refuse_half_characters(text, "request", ("prompt",))
            with self.tokenizing:
                read, lead_in = self.backbone.continued(text)
            if len(read) > MOST_PIECES:
                raise UserError(f"{model}: goes on from a text of at most {MOST_PIECES:,} pieces, not {len(read):,}")
            cut = False
        else:
            if served.prompts.size > 1 or answered_as(served) != ONE_OF_WORDS:
                kind = "an ensemble" if served.prompts.size > 1 else "a prompt that labels by vectors or questions"
                raise UserError(f"prompt {model}: {kind} writes no text; ask it for labels")
            with self.tokenizing:
                (read,), (cut,) = served.pieces(self.backbone, [text])
            lead_in = served.wanted.lead_in
        style = style or Style(served.card.task.answer_pieces if served else Style.most)
        future: Future[Written] = Future()
        item = Continuation(caller, read, cut, keys_of(read, served), future, model, served, lead_in, style, on_piece)
        self.to_write.put([item], len(self.waiting) + self._in_hand)
        self.counts.requests += 1
        return future

    # the engine's own thread, from here on

    def _run(self) -> None:
        while True:
            idle = not (self.writers.busy or self.long)
            taken = [*self._taken(idle), *self._taken_to_write()]
            if idle and not taken:
                return
            try:
                self._go(taken)
            except Exception as error:  # of no text alone: nobody waits for ever, and the next ones are answered
                warn(f"everything in hand failed: {first_line(error)}")
                for item in [*taken, *(item for item, _ in self.long)]:
                    item.failed(error)
                self.long.clear()
                self.writers.fail_all(error)

    def _taken(self, idle: bool) -> list[Item]:
        """What is answered together next."""
        in_hand: set[Key] = set()

        def cost(item: Item) -> float:
            """Pieces to be read, and rows to be answered."""
            if item.cancelled:
                return 0.0
            unread = [key for key in item.keys if key not in in_hand and key not in self.kept]
            in_hand.update(item.keys)
            reading = 0 if self._is_long(item) else len(item.ids) * len(unread)
            return float(reading + (item.rows if isinstance(item, Question) else 1))

        def enough(items: Sequence[Item]) -> bool:
            return _requests(items) >= self.together

        taken = self.waiting.take(cost, self.block, self.wait, idle, enough, lambda: len(self.to_write) > 0)
        self.together = max(_requests(taken), self.together - 1)
        return taken

    def _taken_to_write(self) -> list[Item]:
        """Texts to be gone on from, as many as there are places for: what is read of the others is not held."""
        long = sum(isinstance(item, Continuation) for item, _ in self.long)
        places = MOST_WRITERS - len(self.writers.writers) - len(self.writers.waiting) - long
        if places <= 0:
            return []
        count = pieces = 0

        def cost(item: Item) -> float:
            nonlocal count, pieces
            if count >= places or pieces >= self.block:
                return math.inf
            count, pieces = count + 1, pieces + len(item.ids)
            assert isinstance(item, Continuation)
            return float(len(item.ids) + item.style.most)

        return self.to_write.take(cost, sys.float_info.max, 0.0, idle=False)

    def _go(self, taken: Sequence[Item]) -> None:
        """One turn: what was taken, a part of a long text, a piece of each that is written."""
        asked = [item for item in taken if not item.cancelled]
        for item in asked:
            if isinstance(item, Question):
                item.kept = all(key in self.kept for key in item.keys)
        self.long += [(item, self._reading(item)) for item in asked if self._is_long(item)]
        if short := [item for item in asked if not self._is_long(item)]:
            self._turn_of_all(short)
        self._read_a_part()
        self.writers.step()

    def _is_long(self, item: Item) -> bool:
        """Whether a text is to be read in parts, so that it does not hold up the others."""
        return len(item.ids) > self.block and not all(key in self.kept for key in item.keys)

    def _reading(self, item: Item) -> Iterator[None]:
        """Reads a long text, a part at a time, and keeps it."""
        for key in item.keys:
            if key in self.kept:
                continue
            _, served, member = key
            prompts = None if served is None else served.prompts.select([member])
            for context in self.backbone.read_in_parts(item.ids, self.block, prompts):
                if context is None:
                    yield
                else:
                    self._have_read([item.ids])
                    self.kept.put(key, context)

    @torch.inference_mode()
    def _read_a_part(self) -> None:
        """One part of the long text whose turn it is; one that has been read is answered."""
        if not self.long:
            return
        item, reading = self.long.popleft()
        if item.cancelled:
            return
        began = time.perf_counter()
        try:
            next(reading)
        except StopIteration:
            self._turn_of_all([item])
        except Exception as error:
            item.failed(error)
        else:
            self.counts.reading += time.perf_counter() - began
            self.long.appendleft((item, reading))  # one at a time: what is read of half a text takes room

    def _turn_of_all(self, items: Sequence[Item]) -> None:
        """A turn of several; where that fails, of each alone, so that what is wrong with one harms no other."""
        try:
            self._turn(items)
        except Exception as error:
            if len(items) == 1:
                items[0].failed(error)
                return
            for item in items:
                self._turn_of_all([item])

    @torch.inference_mode()
    def _turn(self, items: Sequence[Item]) -> None:
        began = time.perf_counter()
        questions = [item for item in items if isinstance(item, Question)]
        for question in questions:
            question.request.taken = began
        contexts = self._contexts(items)
        read = time.perf_counter()
        groups: dict[Any, list[Question]] = {}
        for question in questions:
            groups.setdefault(question.shape, []).append(question)
        for (rows, _, _), group in groups.items():
            most = max(1, self._labeller(group[0].served).most_rows(max(len(each.ids) for each in group)) // rows)
            for start in range(0, len(group), most):
                self._answer(group[start : start + most], contexts)
        self.writers.add([item for item in items if isinstance(item, Continuation)], contexts)
        self.counts.turns += 1
        self.counts.reading += read - began
        self.counts.answering += time.perf_counter() - read

    def _contexts(self, items: Sequence[Item]) -> dict[Key, Context]:
        """Of all texts: those that are kept, and the others read now."""
        found: dict[Key, Context] = {}
        missing: dict[Key, list[int]] = {}
        for item in items:
            for key in item.keys:
                if (kept := self.kept.get(key)) is not None:
                    found[key] = kept
                elif key not in missing:
                    missing[key] = item.ids
        for prompted in (False, True):
            keys = [key for key in missing if (key[1] is not None) == prompted]
            for batch in by_length([len(missing[key]) for key in keys], self.block):
                together = [keys[place] for place in batch]
                found |= zip(together, self._read(together, [missing[key] for key in together]), strict=True)
        for key in missing:
            self.kept.put(key, found[key])
        return found

    def _read(self, keys: Sequence[Key], texts: Sequence[list[int]]) -> list[Context]:
        """Texts in one batch, all under prompts of their own, or all under none."""
        prompts = None
        if keys[0][1] is not None:
            prompts = stack([served.prompts.select([member]) for _, served, member in keys])
        self._have_read(texts)
        return apart(self.backbone.read(*self.backbone.pad(texts), prompts))

    def _have_read(self, texts: Sequence[list[int]]) -> None:
        self.counts.texts_read += len(texts)
        self.counts.pieces_read += sum(map(len, texts))

    def _answer(self, questions: Sequence[Question], contexts: Mapping[Key, Context]) -> None:
        """Answer questions of one shape: R rows for each of N texts."""
        count, rows = len(questions), questions[0].rows
        distinct = tuple(dict.fromkeys(served for question in questions for served in question.served))
        same = all(question.served == questions[0].served for question in questions)
        labeller = self._labeller(questions[0].served if same else distinct)
        starts = dict(zip(distinct, accumulate((each.prompts.size for each in distinct), initial=0), strict=False))
        of_row = None
        if not same:  # else the prompts' rows lie side by side, and no prompt is copied for its rows
            each_row = [
                [starts[served] + member for served in question.served for member in range(served.prompts.size)]
                for question in questions
            ]
            of_row = torch.tensor(each_row).T.flatten()  # [R * N]
        which = labeller.which.repeat_interleave(count) if of_row is None else labeller.which[of_row]
        places = range(len(questions[0].keys))
        context = side_by_side([contexts[question.keys[place]] for place in places for question in questions])
        of_row = None if of_row is None else self.backbone.send(of_row)
        scores = labeller.score(context, which, labeller.prompts, of_row)
        self._hand_out(questions, scores.unflatten(0, (rows, count)))

    def _hand_out(self, questions: Sequence[Question], scores: Tensor) -> None:
        """`scores`: `[R, N, C]`, or `[R, N, C, 2]` of several labels a text."""
        for number, question in enumerate(questions):
            answers, row = [], 0
            for served in question.served:
                of_members = scores[row : row + served.prompts.size, number : number + 1]  # [E, 1, …]
                row += served.prompts.size
                assert not isinstance(served.wanted, FreeText)
                own = of_members[:, :, : len(served.wanted.words)]
                said = predictions_of(combined(own, served.ensemble), served.wanted)[0]
                assert said.probabilities is not None
                several = None
                if isinstance(served.wanted, MultiLabel):
                    several = tuple(word for word in said.probabilities if word in as_set(said.label))
                read = len(question.ids)
                answers.append(
                    Answer(served.name, said.label, several, said.probabilities, read, question.cut, question.kept)
                )
                self.counts.by_prompt[served.name] = self.counts.by_prompt.get(served.name, 0) + 1
            self.counts.answers += len(answers)
            question.request.done(question, answers)

    def _labeller(self, served: tuple[Served, ...]) -> Labeller:
        """Prompts side by side, as they were last asked together."""
        labeller = self.labellers.get(served)
        if labeller is None:
            words = [each.wanted for each in served for _ in range(each.prompts.size)]
            labeller = Labeller(self.backbone, stack([each.prompts for each in served]), words)
            self.labellers.put(served, labeller)
        return labeller


def _requests(items: Sequence[Item]) -> int:
    """How many requests some items are of."""
    return len({id(item.future) for item in items})

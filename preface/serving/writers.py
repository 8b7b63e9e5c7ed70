"""Texts that are being written, one piece of each at a time: some join, some end, and the others go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from preface.backbones import writing
from preface.backbones.base import Backbone, Context
from preface.backbones.writing import Writing
from preface.errors import UserError
from preface.prompts import Prompts, stack
from preface.serving.asked import Continuation, Piece, Written
from preface.serving.texts import Key, side_by_side

MOST = 32
"""Texts that are written at once."""
COLDEST = 1e-3
"""A temperature below which the likeliest piece is certain, and numbers would overflow."""
BROKEN = "\ufffd"
"""What a tokenizer writes for the bytes of half a character."""


@dataclass(eq=False)
class Writer:
    """One text, so far."""

    asked: Continuation
    ids: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    text: str = ""
    generator: torch.Generator | None = None


class Writers:
    """All that are being written by one backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.waiting: deque[tuple[Continuation, Context]] = deque()
        self.writers: list[Writer] = []
        self.going: Writing | None = None
        self.prompts: Prompts | None = None
        self.rows: Tensor | None = None
        """The prompt of each, `[B]`."""

    @property
    def busy(self) -> bool:
        return bool(self.writers or self.waiting)

    def add(self, asked: Sequence[Continuation], contexts: Mapping[Key, Context]) -> None:
        """Texts that have been read; they are gone on from as soon as there is a place."""
        self.waiting += [(each, contexts[each.keys[0]]) for each in asked]

    @torch.inference_mode()
    def step(self) -> None:
        """One more piece of each. Where that fails, each goes on alone, and what is wrong with one harms no other."""
        self._drop([writer for writer in self.writers if writer.asked.cancelled])
        if self.going is not None:
            try:
                self._go_on()
            except Exception as error:
                self._apart(error)
        self._begin_waiting()

    def _go_on(self) -> None:
        assert self.going is not None
        said = self.backbone.send(torch.tensor([writer.ids[-1] for writer in self.writers]))
        going, scores = writing.go_on(self.backbone, self.going, said, self.prompts, self.rows)
        self.going = going
        self._choose(self.writers, scores)

    def _apart(self, error: Exception) -> None:
        if len(self.writers) == 1:
            self.writers[0].asked.failed(error)
            self._drop(self.writers)
            return
        together, going = self.writers, self.going
        assert going is not None
        still: list[tuple[Writer, Writing]] = []
        for number, writer in enumerate(together):
            self._set([writer], going.select([number]))
            try:
                self._go_on()
            except Exception as own:
                writer.asked.failed(own)
            else:
                if self.going is not None:
                    still.append((writer, self.going))
        self._set([writer for writer, _ in still], writing.joined([each for _, each in still]) if still else None)

    def _begin_waiting(self) -> None:
        """Let those that wait join, as far as there is room."""
        new: list[tuple[Continuation, Context]] = []
        while self.waiting and len(self.writers) + len(new) < MOST:
            asked, context = self.waiting.popleft()
            if not asked.cancelled:
                new.append((asked, context))
        by_lead_in: dict[tuple[int, ...], list[tuple[Continuation, Context]]] = {}
        for asked, context in new:
            by_lead_in.setdefault(asked.lead_in, []).append((asked, context))
        for group in by_lead_in.values():
            self._begin(group)

    def _begin(self, group: Sequence[tuple[Continuation, Context]]) -> None:
        writers = [Writer(asked) for asked, _ in group]
        try:
            for writer in writers:
                writer.generator = _generator(writer.asked)
            prompts, rows = self._prompts(writers)
            context = side_by_side([context for _, context in group])
            begun, scores = writing.begin(self.backbone, context, group[0][0].lead_in, prompts, rows)
            before = [] if self.going is None else [self.going]
            self._set([*self.writers, *writers], writing.joined([*before, begun]))
        except Exception as error:
            if len(group) == 1:
                group[0][0].failed(error)
            else:
                for each in group:
                    self._begin([each])
            return
        self._choose(writers, scores)

    def fail_all(self, error: BaseException) -> None:
        """Nothing goes on; everybody is told."""
        for asked in [*(writer.asked for writer in self.writers), *(asked for asked, _ in self.waiting)]:
            asked.failed(error)
        self.writers, self.going, self.prompts, self.rows = [], None, None, None
        self.waiting.clear()

    def _choose(self, writers: Sequence[Writer], scores: Tensor) -> None:
        """The next piece of each, by its scores `[B, vocabulary]`; those that end leave."""
        scores = scores.log_softmax(-1)
        ended = []
        for writer, row in zip(writers, scores, strict=True):
            asked = writer.asked
            try:
                finish = self._took(writer, _chosen(row, writer), row)
            except Exception as error:  # of this text alone, as of a listener
                asked.failed(error)
                ended.append(writer)
                continue
            if finish:
                ended.append(writer)
                with suppress(InvalidStateError):
                    asked.future.set_result(
                        Written(asked.model, writer.text, writer.pieces, len(asked.ids), asked.cut, finish)
                    )
        self._drop(ended)

    def _took(self, writer: Writer, piece: int, row: Tensor) -> str:
        """What the text is with one more piece; returns why it ends there, if it does."""
        asked, style = writer.asked, writer.asked.style
        writer.ids.append(piece)
        ended = piece == self.backbone.end
        whole = self._decoded(writer.ids[:-1] if ended else writer.ids)
        stops = [at for stop in style.stop if (at := whole.find(stop)) >= 0]
        last = ended or bool(stops) or len(writer.ids) >= style.most
        if stops:
            whole = whole[: min(stops)]
        elif not last:
            whole = whole.rstrip(BROKEN)
            # what may be the beginning of a stop is held back until it is known
            whole = whole[: len(whole) - max((_overlap(whole, stop) for stop in style.stop), default=0)]
        new, writer.text = whole[len(writer.text) :], max(whole, writer.text, key=len)
        if new or not ended:
            said = Piece(new, float(row[piece]), self._likeliest(row, style.likeliest))
            writer.pieces.append(said)
            if asked.on_piece is not None:
                asked.on_piece(said)
        return "stop" if ended or stops else "length" if last else ""

    def _likeliest(self, row: Tensor, count: int) -> dict[str, float]:
        if not count:
            return {}
        values, ids = row.topk(count)
        return {self._decoded([index]): value for index, value in zip(ids.tolist(), values.tolist(), strict=True)}

    def _decoded(self, ids: list[int]) -> str:
        return str(self.backbone.tokenizer.decode(ids, skip_special_tokens=True))

    def _drop(self, ended: Sequence[Writer]) -> None:
        if not ended:
            return
        stays = [place for place, writer in enumerate(self.writers) if writer not in ended]
        going = self.going.select(stays) if self.going is not None and stays else None
        self._set([self.writers[place] for place in stays], going)

    def _set(self, writers: list[Writer], going: Writing | None) -> None:
        self.prompts, self.rows = self._prompts(writers)
        self.writers, self.going = writers, going

    def _prompts(self, writers: Sequence[Writer]) -> tuple[Prompts | None, Tensor | None]:
        """Those of some texts side by side, and which of them each has."""
        distinct = list(dict.fromkeys(writer.asked.served for writer in writers))
        if distinct in ([], [None]):
            return None, None
        prompts = stack([Prompts.bare() if served is None else served.prompts for served in distinct])
        rows = torch.tensor([distinct.index(writer.asked.served) for writer in writers])
        return prompts, self.backbone.send(rows)


def _chosen(row: Tensor, writer: Writer) -> int:
    """The next piece, by its log-probabilities `[vocabulary]`."""
    style = writer.asked.style
    if not row.isfinite().any():
        raise UserError(f"{writer.asked.model}: what it makes of this text are no finite numbers")
    if style.temperature < COLDEST:
        return int(row.argmax())
    probabilities, order = (row / style.temperature).softmax(-1).sort(descending=True)
    hidden = probabilities.cumsum(-1) - probabilities >= style.top_p
    hidden[0] = False  # the likeliest always stays
    probabilities = probabilities.masked_fill(hidden, 0.0).cpu()
    return int(order[torch.multinomial(probabilities, 1, generator=writer.generator).to(order.device)])


def _generator(asked: Continuation) -> torch.Generator | None:
    return None if asked.style.seed is None else torch.Generator().manual_seed(asked.style.seed)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

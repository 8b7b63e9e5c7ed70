"""What a soft prompt is near to: pieces of the vocabulary, or keys of real text (Lester et al. 2021, section 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.labelling.fit import backbone_of
from preface.labelling.subjects import subjects_of
from preface.methods import method_named
from preface.methods.init import Initializer
from preface.methods.p_tuning import PTuning
from preface.options import validated
from preface.prompts import Prompts
from preface.records.card import SavedPrompt
from preface.records.run import Run, RunRecord
from preface.tasks import Example, Split, render
from preface.tasks.example import worded
from preface.tasks.find import refuse_outside
from preface.tasks.options import DataOptions
from preface.terminal.progress import say

NEAREST = 5
"""As in Lester et al. 2021, section 7."""
FEWEST = 2 * NEAREST
"""Words of which the nearest say something of a token: of fewer, all tokens have much the same ones."""
TEXTS = 64
"""Rows whose keys a prefix is compared with."""

SAMPLE = 500
"""Pieces, or keys, whose mean likeness is what chance gives."""


@dataclass(frozen=True)
class Neighbor:
    """A word, whatever its case and the space before it, or a piece of real text in its place."""

    word: str
    cosine: float


@dataclass(frozen=True)
class Position:
    """One virtual token."""

    index: int
    neighbors: tuple[Neighbor, ...]
    """Nearest first."""
    tightness: float | None
    """The mean cosine between its neighbours themselves: near that of any words, it is no cluster. None: there are too
    few words to choose neighbours from."""
    moved: float | None
    """How far it went from its start, over the length of the start; None: the start is not known."""
    anchor: bool = False
    """Whether it is a word of a pattern, which stays as it is and is not counted (`PTuning.pattern`)."""

    @property
    def words(self) -> set[str]:
        """Of its neighbours."""
        return {neighbor.word for neighbor in self.neighbors}


@dataclass(frozen=True)
class Part:
    """A prompt's input embeddings, or its keys in one layer of a site."""

    name: str
    """`embeddings`, `answer, layer 3`."""
    positions: tuple[Position, ...]
    pool: int
    """Different words that neighbours are chosen from."""
    labels: dict[str, tuple[int, ...]]
    """For each label word the positions that have a piece of it among their neighbours; none where `few`."""
    began: dict[str, tuple[int, ...]] | None
    """For each label word the positions whose start had a piece of it as its nearest; None: the start is not known."""
    groups: tuple[tuple[int, ...], ...]
    """Positions of which each shares most of its neighbours with another of its group."""
    chance: float
    """The mean cosine between vectors of the kind that neighbours are chosen from."""
    points: Tensor
    """Of a map: positions, then their neighbours, `[n + m, 2]`."""
    words: tuple[str, ...]
    """What the points after the positions are."""

    @property
    def trained(self) -> tuple[Position, ...]:
        """The positions without anchors."""
        return tuple(position for position in self.positions if not position.anchor)

    @property
    def few(self) -> bool:
        """Whether there are too few words to say what a position is near to: what T5's decoder reads of an answer is
        its first piece and the label words."""
        return self.pool < FEWEST


@dataclass(frozen=True)
class Neighborhood:
    """What one prompt is near to."""

    title: str
    backbone: str
    method: str
    task: str
    score: float | None
    """On the development rows; None: it was trained elsewhere."""
    untrained: bool
    """Whether it is its own beginning: it scored best before the first step."""
    parts: tuple[Part, ...]

    def as_json(self) -> dict[str, Any]:
        """All but the map."""
        found = asdict(self)
        for part in found["parts"]:
            del part["points"], part["words"]
        return found


def neighbors(
    run: Run | str | Path,
    *,
    layers: Sequence[int] | None = None,
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> Neighborhood:
    """What the best prompt of a run is near to.

    Input embeddings are compared, by cosine, with the model's table of them; words that differ in case or in the space
    before them count once. Keys of a prefix are compared, all heads together, with those that the training task's
    development texts make at the same layer.

    Args:
        run: a run, its folder, or a prompt's folder.
        layers: of a prefix, counted from 0 (default: first, middle, last).
        backbone, dtype, device: as for `evaluate`.
        options: fields of `preface.tasks.options.DataOptions`.

    Raises:
        UserError: what the user can put right.
    """
    data = validated(DataOptions, options)
    subjects = subjects_of(run, "best")
    (subject,) = subjects.all
    saved = subject.saved
    assert saved is not None
    if saved.card.ensemble is not None:
        raise UserError(f"{saved.folder}: is an ensemble; give one of the prompts it is made of")
    model = backbone_of(saved.card, backbone, subjects.backbone, dtype, device)
    saved.check_sizes(model)
    record = subjects.origin if isinstance(subjects.origin, RunRecord) else None
    if subjects.foreign:
        refuse_outside(saved.card.task)
    if record is not None:
        folder = record.data if data.data is None else data.data
        data = data.model_copy(update={"data": folder, "skip_bad_rows": record.skip_bad_rows})
    if layers is not None and not saved.prompts.sites:
        raise UserError(f"layer {layers[0]}: only a prefix has layers, and {saved.folder} is made of input embeddings")
    looking = _Looking(model, saved, data, record)
    parts = looking.embeddings() + looking.keys(layers)
    card = saved.card
    return Neighborhood(
        f"{card.method.name} on {card.task.name}",
        model.name,
        card.method.name,
        card.task.name,
        card.development_score,
        card.member is not None and card.member.untrained,
        parts,
    )


@dataclass
class _Looking:
    """A prompt, its start, and what it is compared with."""

    model: Backbone
    saved: SavedPrompt
    data: DataOptions
    record: RunRecord | None
    """Of its run; None: the prompt may come from anywhere."""

    def __post_init__(self) -> None:
        self.prompts = self.saved.prompts
        self.start = self._started()

    def embeddings(self) -> tuple[Part, ...]:
        """The part of input embeddings, if there is one."""
        name = next((name for name in ("embeddings", "after") if name in self.prompts.tensors), None)
        if name is None:
            return ()
        table = self.model.embeddings.detach().float().cpu()
        size = min(len(table), len(self.model.tokenizer))
        words = self._words(range(size))
        special = set(self.model.tokenizer.all_special_ids)
        real = [index for index, word in enumerate(words) if word and index not in special]
        return (
            self._part(
                name, self.prompts.tensors[name][0].float(), self._start_of(name), table[real],
                [words[index] for index in real], self._label_words(), self._anchors(),
            ),
        )  # fmt: skip

    def keys(self, layers: Sequence[int] | None) -> tuple[Part, ...]:
        """A part for each site and chosen layer."""
        found: list[Part] = []
        sites = [site for site in self.model.sites if site in self.prompts.sites]
        if not sites:
            return ()
        made, words = self._real_keys(sites)
        labels = self._label_words()
        for site in sites:
            depth = self.model.sites[site].layers
            chosen = sorted({0, depth // 2, depth - 1}) if layers is None else list(layers)
            if wrong := [layer for layer in chosen if not 0 <= layer < depth]:
                raise UserError(f"layer {wrong[0]}: the {site} site has layers 0 to {depth - 1}")
            start = self._start_of(f"{site}.keys")
            for layer in chosen:
                own = flat(self.prompts.tensors[f"{site}.keys"][0, layer])
                begun = None if start is None else flat(start[layer])
                real = flat(made[f"{site}.keys"][layer])
                found.append(self._part(f"{site}, layer {layer}", own, begun, real, words[site], labels))
        return tuple(found)

    def _part(
        self,
        name: str,
        own: Tensor,
        start: Tensor | None,
        others: Tensor,
        words: Sequence[str],
        labels: dict[str, set[str]],
        anchors: Sequence[bool] = (),
    ) -> Part:
        """`own` `[n, d]` among `others` `[M, d]`, which are called `words`; `anchors`: of each of `own`, if there are
        any."""
        directions = normalize(others, dim=1)
        cosines = normalize(own, dim=1) @ directions.T  # [n, M]
        pool = len(set(words))
        few = pool < FEWEST
        positions, near = [], []
        for index, row in enumerate(cosines):
            places = distinct(row, words, NEAREST)
            near += places
            moved = None if start is None else float((own[index] - start[index]).norm() / start[index].norm())
            positions.append(
                Position(
                    index,
                    tuple(Neighbor(words[place], float(row[place])) for place in places),
                    None if few else mean_cosine(directions[places]),
                    moved,
                    bool(anchors) and anchors[index],
                )
            )
        trained = [position for position in positions if not position.anchor]
        now = {position.index: position.words for position in trained}
        begun = None if start is None else normalize(start, dim=1) @ directions.T  # [n, M]
        first = None if begun is None else {place: {words[int(begun[place].argmax())]} for place in now}
        if few:
            labels, trained = {}, []
        some = torch.randperm(len(directions), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        near = list(dict.fromkeys(near))
        points = flattened(torch.cat([normalize(own, dim=1), directions[near]]))
        return Part(
            name,
            tuple(positions),
            pool,
            having(now, labels),
            None if first is None else having(first, labels),
            alike(trained),
            mean_cosine(directions[some]),
            points,
            tuple(words[place] for place in near),
        )

    def _label_words(self) -> dict[str, set[str]]:
        """The pieces of each label word, as neighbours are called."""
        words = self.saved.card.label_words
        spelled = self.model.answer_pieces(words, self.saved.card.task.cue)
        return {
            word: set(self._words([piece for piece in pieces if piece != self.model.end])) - {""}
            for word, pieces in zip(words, spelled, strict=True)
        }

    def _anchors(self) -> list[bool]:
        """Of each input embedding whether it is a word of a pattern; none: there is no pattern."""
        method = self.saved.card.method
        if method.name != PTuning.name or method.config.get("pattern") is None:
            return []
        parts = validated(PTuning, method.config).parts(self.model)
        return [part is not None for part in parts for _ in part or [0]]

    def _words(self, ids: Iterable[int]) -> list[str]:
        """What each piece is called."""
        return [plain(word) for word in self.model.tokenizer.batch_decode([[piece] for piece in ids])]

    def _examples(self) -> Sequence[Example]:
        return self.data.split(self.saved.card.task, "validation").examples[:TEXTS]

    @torch.no_grad()
    def _real_keys(self, sites: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """Keys of real text at some sites, `[L, H, M, e]`, and what the piece of each is."""
        model, task, examples = self.model, self.saved.card.task, self._examples()
        question = model.question(task.wording, task.cue)
        ids, _ = render(model.tokenize, examples, self.saved.card.max_input_tokens, question)
        answers = [
            [*model.lead_in(task.cue), *pieces[:-1]]
            for pieces in model.answer_pieces([str(example.label) for example in examples], task.cue)
        ]
        read = {"text": model.pad(ids), "answer": model.pad(answers)}
        places, words = {}, {}
        for site in sites:
            pieces, mask = read[model.sites[site].of]
            places[site] = mask.bool().cpu().nonzero()  # [M, 2]
            rows, columns = places[site].unbind(1)
            words[site] = [word or "␣" for word in self._words(pieces.cpu()[rows, columns].tolist())]
        text, mask = read["text"]
        return model.key_values(places, model.embed(text), mask, model.embed(read["answer"][0])), words

    def _training(self) -> Split:
        """The rows that the prompt was trained on."""
        assert self.record is not None
        return self.data.split(self.saved.card.task, "train", self.record.train_rows)

    @torch.no_grad()
    def _started(self) -> Prompts | None:
        """The prompt as it was before its training; None: it cannot be made anew."""
        card = self.saved.card
        if self.record is None or card.member is None:
            return None  # it may begin from anything
        if self.record.shots is not None or self.record.recipe.get("folds") is not None:
            say("trained with shots or folds: its start is not made anew, so how far it went is not known")
            return None
        try:
            method = validated(method_named(card.method.name), card.method.config)
            examples = worded(self._training().examples, card.task.wording)
            initializer = Initializer.parse(method.init, card.label_words, examples, card.task.cue)
            return method.build(self.model, initializer, [card.member.seed])()
        except (UserError, OSError) as error:
            say(f"the start of the prompt is not known ({error}), so not how far it went")
            return None

    def _start_of(self, name: str) -> Tensor | None:
        if self.start is None or name not in self.start.tensors:
            return None
        start = self.start.tensors[name][0].detach().float().cpu()
        return start if start.shape == self.prompts.tensors[name][0].shape else None


def plain(piece: str) -> str:
    """A decoded piece without its space and case: `Technology`, ` technology` and `TECHNOLOGY` are one word."""
    return piece.strip().casefold()


def distinct(scores: Tensor, words: Sequence[str], count: int) -> list[int]:
    """The places of the highest scores, each word once."""
    found: dict[str, int] = {}
    for place in scores.argsort(descending=True)[: 40 * count].tolist():
        found.setdefault(words[place], place)
        if len(found) == count:
            break
    return list(found.values())


def having(near: Mapping[int, set[str]], labels: Mapping[str, set[str]]) -> dict[str, tuple[int, ...]]:
    """For each label the positions that are `near` one of its pieces."""
    return {label: tuple(place for place, words in near.items() if words & pieces) for label, pieces in labels.items()}


def alike(positions: Iterable[Position]) -> tuple[tuple[int, ...], ...]:
    """The groups of two and more in which each shares most of its neighbours with another."""
    groups: list[list[Position]] = []
    for position in positions:
        joined = [group for group in groups if any(2 * len(position.words & one.words) > NEAREST for one in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*chain.from_iterable(joined), position])
    return tuple(sorted(tuple(sorted(one.index for one in group)) for group in groups if len(group) > 1))


def mean_cosine(directions: Tensor) -> float:
    """The mean cosine between different ones of m directions `[m, d]`."""
    count = len(directions)
    if count < 2:
        return 1.0
    return float((directions @ directions.T).sum() - count) / (count * (count - 1))


def flat(keys: Tensor) -> Tensor:
    """All heads of a key as one vector: `[H, n, e]` to `[n, H e]`."""
    return keys.float().transpose(0, 1).flatten(1)


def flattened(points: Tensor) -> Tensor:
    """Two dimensions that keep most of the differences between points (principal components): `[m, d]` to `[m, 2]`."""
    centred = points - points.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T

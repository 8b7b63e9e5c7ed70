"""The candidates of docs/results/own-method/plan.md: trained on a source, and asked about other domains.

    python benchmarks/own_method.py train plain many --out runs/own --data DIR
    python benchmarks/own_method.py ask cr --out runs/own --data DIR
    python benchmarks/own_method_table.py cr --out runs/own

Each text is read once for all prompts, and each prompt answers with one piece. A candidate that has been trained is not
trained again, and what has been asked is not asked again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from own_method_modules import Both, Queries, Shared, growing, turned
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy as loss_of

from preface.backbones import batching
from preface.backbones.base import Backbone, Context
from preface.backbones.contexts import Inputs
from preface.backbones.frozen import cross_entropy
from preface.backbones.load import load_backbone
from preface.backbones.rotary import turned as keys_turned
from preface.labelling.calibration import content_free
from preface.methods import PrefixTuning, PromptModule
from preface.methods.init import Initializer, text_ids
from preface.methods.soft_words import SoftWords
from preface.prompts import Prompts
from preface.tasks import Example, load_split, load_task, render
from preface.tasks.split import sampled
from preface.tasks.task import CHAT
from preface.terminal.progress import progress, say
from preface.tuning.optimizers import AdamW, clip_gradients
from preface.tuning.schedules import done_since, rate_share

CUES = ("Sentiment:", "Answer:", "It was")
UNSEEN_CUE = "Verdict:"
ONCE, TWICE = "{text}", "{text}\n{text}"
WORDED = "sentiment: {text}"
"""The wording that does best on SST-2's development rows without any prompt."""
WORDED_FILM = "OPTIONS: negative, positive. Choose the sentiment of this film review: {text}"
"""The one that does best on IMDB's."""
TOLD = "Is the sentiment of the following text positive or negative?\n{text}"
ASKED = "Is the following text negative or positive?\n{text}"
"""A question that is made of the label words alone."""
PAIRS = (("negative", "positive"), ("bad", "good"))
SHORTEST = 8
"""The pieces that a text is cut to, at least."""
TRIAL, STEPS, BATCH, WARMUP, LENGTH, MOST_TOKENS = 200, 300, 16, 20, 10, 512
SOURCES = {
    "sst2": (4_800, MOST_TOKENS),
    "imdb": (2_400, 256),
    "cr": (4_800, MOST_TOKENS),
    "mpqa": (4_800, MOST_TOKENS),
    "semeval_twitter": (2_400, MOST_TOKENS),
}
"""Rows that are trained on, and the pieces that a text is cut to."""
AT_ONCE = 2_048
"""Answers that are computed together."""


@dataclass(frozen=True)
class Candidate:
    """What is trained, and how; the plain prefix at the answer where nothing else is said."""

    template: str = ONCE
    """How a text is read."""
    cue: str = CUES[0]
    """What it is asked under."""
    cues: int = 1
    """How many of `CUES` every row is trained under."""
    pairs: int = 1
    """How many of `PAIRS` answer."""
    agreement: float = 0.0
    """What the divergence between the answers to one row counts beside the loss."""
    growth: float = 0.0
    """α: the prefix's scores grow by α log(N / N₀) with the N pieces of a text."""
    more: tuple[str, ...] = ()
    """Sources beside the one: a batch has as many rows of each."""
    shared: bool = False
    """Whether each source's prefix is what all share times a rank of one; other domains have what is shared."""
    cut: float = 0.0
    """The share of rows that are cut anew in each step, to any length from `SHORTEST` pieces on."""
    twins: bool = False
    """Whether every row of a batch stands there a second time, cut."""
    heads: int = 0
    """The pieces that every text is cut to."""
    joined: bool = False
    """Whether half of the rows are two of one label, one after the other."""
    teacher: str | None = None
    """The candidate whose members' averaged answers are learnt, half and half with the labels."""
    rank: int = 0
    """In the place of a prefix: what is added, of this rank, to the queries of the answer's pieces."""
    words: int = 0
    """In the place of a prefix: soft words between text and answer, whose states change in every layer."""
    prefix: bool = False
    """Whether soft words have a prefix of half the length beside them."""
    steps: int = STEPS
    rates: tuple[float, ...] = (0.01, 0.02, 0.04)
    seeds: int = 5
    """0: the bare model."""
    best_rates: int = 1


WORDS, MORE = (0.01, 0.03, 0.1), ("cr", "mpqa")
CANDIDATES = {
    "bare": Candidate(seeds=0),
    "plain": Candidate(),
    "bare-twice": Candidate(seeds=0, template=TWICE),
    "twice": Candidate(template=TWICE),
    "bare-told": Candidate(seeds=0, template=TOLD),
    "told": Candidate(template=TOLD),
    "bare-asked": Candidate(seeds=0, template=ASKED),
    "asked": Candidate(template=ASKED),
    "bare-worded": Candidate(seeds=0, template=WORDED),
    "worded": Candidate(template=WORDED),
    "bare-worded-film": Candidate(seeds=0, template=WORDED_FILM),
    "worded-film": Candidate(template=WORDED_FILM),
    "worded-words": Candidate(template=WORDED, words=6, rates=WORDS),
    "bare-chat": Candidate(seeds=0, template=TOLD, cue=CHAT),
    "chat": Candidate(template=TOLD, cue=CHAT),
    "many": Candidate(seeds=8, best_rates=2),
    "growing-half": Candidate(growth=0.5),
    "growing": Candidate(growth=1.0),
    "joined": Candidate(joined=True),
    "cut": Candidate(cut=0.5),
    "cut-all": Candidate(cut=1.0),
    "heads": Candidate(heads=32),
    "told-cut": Candidate(template=TOLD, cut=0.5),
    "told-twins": Candidate(template=TOLD, twins=True),
    "plain-ten": Candidate(seeds=10),
    "told-cut-ten": Candidate(template=TOLD, cut=0.5, seeds=10),
    "cues": Candidate(cues=3, pairs=2, agreement=0.1),
    "cues-apart": Candidate(cues=3, pairs=2),
    "sources": Candidate(more=MORE),
    "shared": Candidate(more=MORE, shared=True),
    "student": Candidate(teacher="many"),
    "queries": Candidate(rank=4, rates=(0.001, 0.003, 0.01)),
    "words": Candidate(words=6, rates=WORDS),
    "words-prefix": Candidate(words=3, prefix=True, rates=WORDS),
    "longer": Candidate(steps=3 * STEPS),
    "words-longer": Candidate(words=6, steps=3 * STEPS, rates=WORDS),
}


@dataclass(frozen=True)
class Texts:
    """Rows of a task under one cue."""

    inputs: Inputs
    gold: Tensor
    """`[N]`, 0 for negative and 1 for positive; empty for texts without content."""
    lead_in: tuple[int, ...]
    words: Tensor
    """The piece of each word of each pair, `[pairs, 2]`."""

    @classmethod
    def of(cls, backbone: Backbone, rows: Sequence[Example], template: str, cue: str, most: int = MOST_TOKENS) -> Texts:
        """Every word of `PAIRS` must be one piece after the cue.

        `most`: the pieces that a text is cut to."""
        ids, _ = render(backbone.tokenize, rows, most * template.count(ONCE), backbone.question(template, cue))
        words = [[pieces for (pieces,) in backbone.answer_pieces(pair, cue)] for pair in PAIRS]
        gold = torch.tensor([PAIRS[0].index(str(row.label)) for row in rows if row.label is not None])
        return cls(Inputs(backbone, ids, keep=True), gold, backbone.lead_in(cue), torch.tensor(words))

    def states(self, backbone: Backbone, context: Context, prompts: Prompts, rows: int) -> Tensor:
        """What the projection onto the vocabulary reads before each answer, `[rows, d]`."""
        with turned(backbone, prompts):
            return backbone.answer(context, torch.tensor(self.lead_in).expand(rows, -1), prompts)[:, -1]

    def logits(self, backbone: Backbone, hidden: Tensor) -> Tensor:
        """Of the words: `[B, d]` to `[B, pairs, 2]`."""
        pieces = self.words.flatten().expand(len(hidden), -1)
        return backbone.head.logits_of(hidden[:, None], pieces).unflatten(1, self.words.shape)


def examples(task: str, split: str, data: Path | None, rows: int | None = None) -> list[Example]:
    whole = load_split(load_task(task), split, data=data)
    return (whole if rows is None else sampled(whole, rows)).examples


def with_joined(rows: Sequence[Example]) -> list[Example]:
    """The first half as it is, the other half of pairs of one label: as many rows, and longer ones."""
    half = len(rows) // 2
    by_label: dict[str, list[Example]] = {}
    for row in rows[:half]:
        by_label.setdefault(str(row.label), []).append(row)
    both = []
    for place, row in enumerate(rows[half:]):
        others = by_label[str(row.label)]
        fields = {name: f"{text} {others[place % len(others)].fields[name]}" for name, text in row.fields.items()}
        both.append(replace(row, fields=fields))
    return [*rows[:half], *both]


class Training:
    """P prompts of one candidate, trained side by side."""

    def __init__(
        self,
        backbone: Backbone,
        candidate: Candidate,
        texts: Sequence[Texts],
        taught: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """
        Args:
            texts: the rows under each cue.
            taught: what a teacher answers to each row, `[N, 2]`, which sums to 1.
            sizes: how many of the rows, which lie one source after the other, each source has; none: there is one.
        """
        self.backbone, self.candidate, self.texts, self.taught = backbone, candidate, texts, taught
        self.sizes = sizes or [len(texts[0].inputs)]
        self.usual = float(np.mean(texts[0].inputs.lengths))
        self.chance = torch.Generator().manual_seed(0)
        said = candidate.template.replace(ONCE, "")
        self.around = len(text_ids(backbone, said)) if said else 0

    def run(self, name: str, rows: Sequence[Example], members: Sequence[tuple[float, int]], steps: int) -> Prompts:
        """The prompts of these rates and seeds."""
        module = self.module(rows, [seed for _, seed in members])
        parameters = dict(module.named_parameters())
        optimizer = AdamW(parameters, 0.0)
        orders = [self.batches(seed) for _, seed in members]
        rates = torch.tensor([rate for rate, _ in members])
        with progress(name, steps, "steps") as advance, growing(self.candidate.growth, self.usual):
            for step in range(steps):
                losses = self.losses(module(), [next(order) for order in orders])
                found = torch.autograd.grad(losses.sum(), list(parameters.values()))
                for parameter, gradient in zip(parameters.values(), found, strict=True):
                    parameter.grad = gradient
                clip_gradients(parameters, 1.0)
                optimizer.step(rates * rate_share("linear", step, done_since(WARMUP, step, steps), WARMUP))
                advance(1, f"loss {float(losses.detach().mean()):.3f}")
        with torch.no_grad():
            prompts = module.shared() if isinstance(module, Shared) else module()
        return Prompts({name: tensor.detach().clone() for name, tensor in prompts.tensors.items()})

    def batches(self, seed: int) -> Iterator[list[int]]:
        """As many rows of each source, one source after the other; what is left at the end of a source is not seen."""
        rows, lengths = -(-BATCH // len(self.sizes)), self.texts[0].inputs.lengths
        begins = [0, *accumulate(self.sizes)][:-1]
        orders = [
            batching.endless(lengths[begin : begin + size - size % rows], seed, rows)
            for begin, size in zip(begins, self.sizes, strict=True)
        ]
        while True:
            yield [begin + row for begin, order in zip(begins, orders, strict=True) for row in next(order)]

    def module(self, rows: Sequence[Example], seeds: Sequence[int]) -> PromptModule:
        """What is trained, at its beginning."""
        if self.candidate.rank:
            return Queries(self.backbone, self.candidate.rank, seeds)
        said = [(row.text, str(row.label)) for row in rows]
        labels, activations = (Initializer.parse(kind, PAIRS[0], said, CUES[0]) for kind in ("labels", "activations"))
        if not self.candidate.words:
            prefixes = PrefixTuning(length=LENGTH, sites=("answer",)).build(self.backbone, activations, seeds)
            return Shared(prefixes(), len(self.sizes)) if self.candidate.shared else prefixes
        words = SoftWords(length=self.candidate.words, place="after").build(self.backbone, labels, seeds)
        if not self.candidate.prefix:
            return words
        return Both(words, PrefixTuning(length=LENGTH // 2, sites=("answer",)).build(self.backbone, activations, seeds))

    def cut(self, context: Context, twins: Tensor | None = None) -> Context:
        """The texts, of which some may be cut, as if no more had been read: what comes later in a text changes nothing
        before it, so what is kept of the whole does for every length. Where the length is drawn, its logarithm is even
        between the shortest and the whole. `twins`: which rows are cut, `[B]`."""
        lengths = whole = context.mask.sum(1)  # [B]
        if self.candidate.heads:
            lengths = whole.clamp(max=self.candidate.heads + self.around)
        if self.candidate.cut or self.candidate.twins:
            shortest = whole.clamp(max=SHORTEST + self.around)
            drawn = shortest * (whole / shortest) ** torch.rand(len(whole), generator=self.chance)
            some = torch.rand(len(whole), generator=self.chance) < self.candidate.cut
            lengths = torch.where(some if twins is None else twins, drawn.round().long(), whole)
        if bool((lengths == whole).all()):
            return context
        longest = int(lengths.max())
        mask = context.mask[:, :longest] * (torch.arange(longest) < lengths[:, None])
        return Context(self.later(context.states[:, :longest], whole, lengths), mask)

    def later(self, states: Tensor, whole: Tensor, lengths: Tensor) -> Tensor:
        """What is kept of texts `[B, m, w]` with their keys turned to later positions, as every text ends at -1."""
        backbone, states = self.backbone, states.clone()
        frequencies = backbone.model.get_decoder().rotary_emb.inv_freq
        keys = states.unflatten(2, (backbone.layers, 2, backbone.heads, -1))[:, :, :, 0]  # [B, m, L, H, e], a view
        for row in (lengths < whole).nonzero().flatten().tolist():
            own = keys[row, : lengths[row]]
            own.copy_(keys_turned(own, (whole - lengths)[row] * frequencies, side_by_side=False))
        return states

    def losses(self, prompts: Prompts, batches: Sequence[Sequence[int]]) -> Tensor:
        """Of each member on its own batch, `[P]`."""
        twins = None
        if self.candidate.twins:
            twins = torch.tensor([second for batch in batches for second in (False, True) for _ in batch])
            batches = [[*batch, *batch] for batch in batches]
        chosen = [row for batch in batches for row in batch]
        total, answers = torch.zeros(len(chosen)), []
        for text in self.texts:
            hidden = text.states(self.backbone, self.cut(text.inputs.read(chosen), twins), prompts, len(chosen))
            gold, logits = text.gold[chosen], text.logits(self.backbone, hidden)
            for pair in range(self.candidate.pairs):
                total = total + cross_entropy(hidden, self.backbone.head, text.words[pair][gold])
                answers.append(logits[:, pair].log_softmax(-1))  # [B, 2]
        total = total / len(answers)
        if self.taught is not None:
            total = 0.5 * total + 0.5 * loss_of(answers[0], self.taught[chosen], reduction="none")
        if self.candidate.agreement:
            total = total + self.candidate.agreement * divergence(torch.stack(answers, 1))
        return total.view(len(batches), -1).mean(1)


def divergence(answers: Tensor) -> Tensor:
    """How far several answers are from their mean: log-probabilities `[B, K, 2]` to `[B]` (Jensen and Shannon's)."""
    mean = answers.exp().mean(1, keepdim=True).log()
    return (answers.exp() * (answers - mean)).sum(-1).mean(1)


@dataclass(frozen=True)
class Trained:
    """A candidate and its prompts."""

    candidate: Candidate
    prompts: Prompts
    usual: float
    """N₀, the pieces of a text that it was trained on."""
    development: Sequence[float] = ()
    """The accuracy of each prompt on the source's development rows."""

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """From the folder that `train` wrote."""
        record = json.loads((folder / "candidate.json").read_text(encoding="utf-8"))
        candidate = Candidate(**record["candidate"])
        prompts = Prompts(load_file(folder / "prompts.safetensors")) if candidate.seeds else Prompts.bare()
        return cls(candidate, prompts, record["usual"], record.get("development", ()))

    def taught(self, backbone: Backbone, texts: Texts) -> Tensor:
        """The averaged answers of the half of the prompts that does best on development rows, `[N, 2]`."""
        best = self.prompts.select(best_half(self.development))
        (logits,) = asked(backbone, texts, [replace(self, prompts=best)])
        return logits[:, :, 0].log_softmax(-1).mean(0).softmax(-1).clone()


@torch.inference_mode()
def asked(backbone: Backbone, texts: Texts, each: Sequence[Trained]) -> list[Tensor]:
    """What the prompts of several candidates answer: each `[P, N, pairs, 2]`, logits."""
    found = [torch.empty(one.prompts.size, len(texts.inputs), *texts.words.shape) for one in each]
    with progress("asked", len(texts.inputs), "rows") as advance:
        for batch in batching.by_length(texts.inputs.lengths, AT_ONCE):
            context = texts.inputs.read(batch)
            for one, output in zip(each, found, strict=True):
                size = one.prompts.size
                with growing(one.candidate.growth, one.usual):
                    hidden = texts.states(backbone, context, one.prompts, size * len(batch))
                output[:, batch] = texts.logits(backbone, hidden).unflatten(0, (size, -1))
            advance(len(batch))
    return found


def train(name: str, out: Path, source: str, data: Path | None, backbone: Backbone) -> None:
    """Choose a candidate's rate by the source's development rows, train it, and keep its prompts."""
    folder, candidate = out / name, CANDIDATES[name]
    if (folder / "candidate.json").exists():
        return say(f"{name}: trained already")
    folder.mkdir(parents=True, exist_ok=True)
    if not candidate.seeds:
        (folder / "candidate.json").write_text(json.dumps({"candidate": asdict(candidate), "usual": 1.0}) + "\n")
        return say(f"{name}: nothing to train")
    most = SOURCES[source][1]
    each = [examples(name, "train", data, SOURCES[name][0]) for name in (source, *candidate.more)]
    rows = [row for rows in each for row in rows]
    rows = with_joined(rows) if candidate.joined else rows
    held = examples(source, "validation", data)
    cues = (candidate.cue, *CUES[1 : candidate.cues])
    texts = [Texts.of(backbone, rows, candidate.template, cue, most) for cue in cues]
    development = Texts.of(backbone, held, candidate.template, candidate.cue, most)
    taught = None if candidate.teacher is None else Trained.read(out / candidate.teacher).taught(backbone, texts[0])
    training = Training(backbone, candidate, texts, taught, [len(rows) for rows in each])

    def scores(prompts: Prompts) -> tuple[list[float], list[float]]:
        (logits,) = asked(backbone, development, [Trained(candidate, prompts, training.usual)])
        answers = logits[:, :, 0].log_softmax(-1)  # [P, N, 2]
        right = (answers.argmax(-1) == development.gold).float().mean(1)
        losses = [float(loss_of(own, development.gold)) for own in answers]
        return right.tolist(), losses

    rates = candidate.rates
    trial = training.run(f"{name}, rates", rows, [(rate, 0) for rate in rates], TRIAL)
    accuracies, losses = scores(trial)
    order = sorted(range(len(rates)), key=lambda place: (-accuracies[place], losses[place]))
    best = [rates[place] for place in order[: candidate.best_rates]]
    members = [(rate, seed) for rate in best for seed in range(candidate.seeds)]
    prompts = training.run(name, rows, members, candidate.steps)
    save_file({key: tensor.contiguous() for key, tensor in prompts.tensors.items()}, folder / "prompts.safetensors")
    record = {
        "candidate": asdict(candidate),
        "source": source,
        "trials": dict(zip(map(str, rates), accuracies, strict=True)),
        "members": members,
        "usual": training.usual,
        "development": scores(prompts)[0],
    }
    (folder / "candidate.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"{name}: rate {best[0]:g}, development {np.mean(record['development']):.3f}")


def best_half(scores: Sequence[float]) -> list[int]:
    """The places of the higher half."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])[: max(1, len(scores) // 2)]


def stem_of(task: str, split: str = "test", cue: str = CUES[0]) -> str:
    """The file of what a candidate was asked."""
    return f"{task}-{split}-{cue.strip(':').replace(' ', '-').lower()}.npz"


def ask(task: str, split: str, cue: str, out: Path, data: Path | None, backbone: Backbone) -> None:
    """What every candidate that has been trained says of a task's rows, and of texts without content.

    `cue`: what those are asked under that have no cue of their own.
    """
    stem = stem_of(task, split, cue)
    alike: dict[tuple[str, str], dict[str, Trained]] = {}  # what is read alike is read once for all
    for folder in sorted(out.iterdir()):
        if (folder / "candidate.json").exists() and not (folder / stem).exists():
            one = Trained.read(folder)
            own = one.candidate
            alike.setdefault((own.template, cue if own.cue == CUES[0] else own.cue), {})[folder.name] = one
    rows = examples(task, split, data)
    for (template, own_cue), missing in alike.items():
        each = list(missing.values())
        texts, empty = (Texts.of(backbone, some, template, own_cue) for some in (rows, content_free(rows[0])))
        found = zip(missing, asked(backbone, texts, each), asked(backbone, empty, each), strict=True)
        for name, logits, prior in found:
            answers = {"logits": logits.numpy(), "prior": prior.numpy(), "gold": texts.gold.numpy()}
            np.savez_compressed(out / name / stem, **answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "ask"))
    parser.add_argument("names", nargs="+", help=f"candidates ({', '.join(CANDIDATES)}), or tasks to ask about")
    parser.add_argument("--out", type=Path, default=Path("runs/own-method"))
    parser.add_argument("--source", choices=tuple(SOURCES), default="sst2")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cue", choices=(*CUES, UNSEEN_CUE), default=CUES[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    backbone = load_backbone(given.backbone, dtype=given.dtype)
    for name in given.names:
        if given.verb == "train":
            train(name, given.out, given.source, given.data, backbone)
        else:
            ask(name, given.split, given.cue, given.out, given.data, backbone)


if __name__ == "__main__":
    main()

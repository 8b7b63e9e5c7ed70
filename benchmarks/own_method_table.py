"""What the candidates of docs/results/own-method/plan.md come to on a task, beside the plain prefix.

    python benchmarks/own_method_table.py cr --out runs/own-method
    python benchmarks/own_method_table.py imdb financial_phrasebank tweets mpqa semeval_twitter --out runs/own-method

Accuracy in percent, mean ± sample standard deviation over seeds, macro F1, expected calibration error, and the
difference to the plain prefix with its 95 % interval over seeds and rows. Of several tasks, the mean and the worst too.
`--averaged 5 --beside plain-ten` compares, of every candidate, five members averaged in log-probability with five of
another's. `--cells FOLDER` writes what each member scored as cells, which `preface report FOLDER` makes a page and
pictures of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from own_method import CUES, PAIRS, Trained, best_half, stem_of
from rich.console import Console
from rich.table import Table
from scipy.special import log_softmax

from preface.experiments.differences import Apart, Difference, Numbers, difference_of
from preface.experiments.table import Entry
from preface.insight.answers import bins_of, calibration_error
from preface.labelling.calibration import calibrated
from preface.labelling.measures import measured
from preface.records.results import Cell, write_cells
from preface.tasks import Example
from preface.tasks.metric import metric

BINS = 15
"""Of the calibration error, of equal width (Guo et al. 2017)."""
SHARES = (0.2, 0.5, 0.8)
DRAWS = 4_000
"""Of members and of rows, for the intervals of averaged ones."""
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Answers:
    """What a candidate's members said of a task's rows."""

    def __init__(self, path: Path) -> None:
        found = np.load(path)
        self.gold: NDArray[np.int64] = found["gold"]
        self.logs = log_softmax(found["logits"][:, :, 0], -1)
        """`[S, N, 2]`."""
        self.prior = log_softmax(found["prior"][:, :, 0], -1)
        """Of texts without content, `[S, M, 2]`."""


class Asked:
    """All that was said of tasks' rows."""

    def __init__(self, out: Path, cue: str) -> None:
        self.out, self.cue = out, cue

    def answers(self, name: str, task: str, split: str = "test") -> Answers:
        return Answers(self.out / name / stem_of(task, split, self.cue))

    def has(self, name: str, task: str) -> bool:
        return (self.out / name / stem_of(task, "test", self.cue)).exists()

    def best(self, name: str) -> list[int]:
        """The half of a candidate's members that does best on the source's development rows."""
        record = json.loads((self.out / name / "candidate.json").read_text(encoding="utf-8"))
        return best_half(record["development"])

    def systems(self, task: str) -> Iterator[tuple[str, Numbers]]:
        """Name, and log-probabilities `[S, N, 2]` up to a constant in each row, of all that can be had of a task."""
        names = [folder.name for folder in sorted(self.out.iterdir()) if self.has(folder.name, task)]
        for name in sorted(names, key=lambda name: name != "plain"):
            if name == "many":
                continue
            found = self.answers(name, task)
            logs = found.logs
            if name.startswith("bare"):
                yield name, logs
                yield f"{name}, calibrated", without(logs, found.prior)
                continue
            own = f"bare-{name}"
            bare = self.answers(own if own in names else "bare", task)
            yield name, logs
            yield f"{name}, averaged", logs.mean(0, keepdims=True)
            yield f"{name}, half the bare model", (logs + bare.logs) / 2
        if "many" in names:
            yield from self._many(task)

    def cells(self, tasks: Sequence[str]) -> Iterator[Cell]:
        """What each member of each candidate scored."""
        for name in (folder.name for folder in sorted(self.out.iterdir())):
            record = json.loads((self.out / name / "candidate.json").read_text(encoding="utf-8"))
            members = record.get("members", [[None, None]])
            prompts = Trained.read(self.out / name).prompts
            numbers = sum(tensor[0].numel() for tensor in prompts.tensors.values())
            for task in (task for task in tasks if self.has(name, task)):
                found = self.answers(name, task)
                words = PAIRS[0]
                rows = [Example.of("", words[label]) for label in found.gold]
                for (rate, seed), own in zip(members, found.logs.argmax(-1), strict=True):
                    value, details = measured("accuracy", rows, [words[label] for label in own], words)
                    details |= {"learning_rate": rate, "seconds_are_not_measured": True}
                    source = record.get("source")
                    yield Cell(
                        "smollm2", name, source, task, "accuracy", value, len(rows), seed, numbers, 0.0, "test", details
                    )

    def _many(self, task: str) -> Iterator[tuple[str, Numbers]]:
        best, many = self.best("many"), self.answers("many", task)
        yield "many, its members", many.logs[best]
        logs, prior = (some[best].mean(0, keepdims=True) for some in (many.logs, many.prior))
        yield "many", logs
        share = self._share(best)
        yield f"many, {share:g} of the prior off", without(logs, prior, share)
        yield f"many, {share:g} of the mean over the test's texts off", without(logs, logs, share)

    def _share(self, best: Sequence[int]) -> float:
        """How much of the prior is taken off: what is best on the source's development rows at three shares of their
        labels."""
        held = self.answers("many", "sst2", "validation")
        logs, prior = (some[best].mean(0, keepdims=True) for some in (held.logs, held.prior))
        weights = [np.where(held.gold == 1, share, 1 - share) / counts(held.gold) for share in SHARES]

        def score(part: float) -> float:
            hits = right(without(logs, prior, part), held.gold)
            return float(np.mean([(hits * weight).sum() for weight in weights]))

        return max(LAMBDAS, key=score)


def without(logs: Numbers, prior: Numbers, share: float = 1.0) -> Numbers:
    """Log-probabilities `[S, N, 2]` from which a share of what `prior` `[S, M, 2]` has on the mean is taken off."""
    whole = calibrated(torch.from_numpy(logs), torch.from_numpy(prior)).numpy()
    return (1 - share) * log_softmax(logs, -1) + share * whole


def counts(gold: NDArray[np.int64]) -> Numbers:
    """How many rows have each row's label, `[N]`."""
    return np.bincount(gold, minlength=2)[gold].astype(float)


def right(logs: Numbers, gold: NDArray[np.int64]) -> Numbers:
    """`[S, N]`, 1 where an answer is right."""
    return (logs.argmax(-1) == gold).astype(float)


def macro_f1(logs: Numbers, gold: NDArray[np.int64]) -> float:
    """The mean over seeds."""
    return fmean(metric("macro_f1", gold.tolist(), own.tolist()) for own in logs.argmax(-1))


def error(logs: Numbers, gold: NDArray[np.int64]) -> float:
    """The expected calibration error, the mean over seeds."""
    sure, hits = np.exp(log_softmax(logs, -1)).max(-1), right(logs, gold)  # [S, N]
    return fmean(calibration_error(bins_of(*both, BINS)) for both in zip(sure.tolist(), hits.tolist(), strict=True))


def averaged(answers: Answers, size: int, place: int) -> Numbers:
    """The accuracy of so many members averaged, `[1 + DRAWS]`: the mean over draws of them, then each draw of members
    and rows. All have the same draws of members, and those of rows at one place.
    """
    logs, gold = answers.logs, answers.gold
    members_of, rows_of = np.random.default_rng(0), np.random.default_rng(place)
    whole, drawn = np.empty(DRAWS), np.empty(DRAWS)
    for draw in range(DRAWS):
        members, rows = members_of.integers(0, len(logs), size), rows_of.integers(0, len(gold), len(gold))
        hits = logs[members].mean(0).argmax(-1) == gold
        whole[draw], drawn[draw] = hits.mean(), hits[rows].mean()
    return np.array([whole.mean(), *drawn])


def table_of_averaged(asked: Asked, tasks: Sequence[str], size: int, beside: str) -> Table:
    """So many members of each candidate averaged, and how far that is from as many of `beside`."""
    table = Table("candidate", *(column for task in tasks for column in (task, "beside")), "mean", "beside")
    found = {
        folder.name: [averaged(asked.answers(folder.name, task), size, place) for place, task in enumerate(tasks)]
        for folder in sorted(asked.out.iterdir())
        if not folder.name.startswith("bare") and all(asked.has(folder.name, task) for task in tasks)
    }
    for name, own in found.items():
        pairs = [*zip(own, found[beside], strict=True), (np.mean(own, axis=0), np.mean(found[beside], axis=0))]
        shown = [(share_of(one[0]), str(drawn_difference(one - other))) for one, other in pairs]
        table.add_row(name, *(text for both in shown for text in both))
    return table


def drawn_difference(drawn: Numbers) -> Difference:
    """What was measured, which comes first, and how far what was drawn of it reaches."""
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    return Difference(float(drawn[0]), float(low), float(high))


def share_of(value: float) -> str:
    return f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs/own-method"))
    parser.add_argument("--cue", default=CUES[0])
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--averaged", type=int, metavar="N")
    parser.add_argument("--beside", default="plain")
    given = parser.parse_args()
    asked = Asked(given.out, given.cue)
    if given.averaged is not None:
        return Console(width=60 + 36 * len(given.tasks)).print(
            table_of_averaged(asked, given.tasks, given.averaged, given.beside)
        )
    if given.cells is not None:
        write_cells(given.cells / "results.json", asked.cells(given.tasks))
    found = {task: dict(asked.systems(task)) for task in given.tasks}
    gold = {task: asked.answers("bare", task).gold for task in given.tasks}
    measures: list[tuple[str, Callable[[Numbers, NDArray[np.int64]], str]]] = [
        ("accuracy", lambda logs, gold: str(Entry(tuple(right(logs, gold).mean(1))))),
        ("macro F1", lambda logs, gold: share_of(macro_f1(logs, gold))),
        ("calibration error", lambda logs, gold: share_of(error(logs, gold))),
    ]
    table = Table(*["system", *(f"{task}: {name}" for task in given.tasks for name, _ in measures)])
    table.add_column("beside plain")
    if len(given.tasks) > 1:
        table.add_column("mean")
        table.add_column("worst")
    for name in found[given.tasks[0]]:
        cells = [measure(found[task][name], gold[task]) for task in given.tasks for _, measure in measures]
        hits = [right(found[task][name], gold[task]) for task in given.tasks]
        plain = [right(found[task]["plain"], gold[task]) for task in given.tasks]
        apart = [Apart(own, other) for own, other in zip(hits, plain, strict=True)]
        means = [own.mean() for own in hits]
        more = [share_of(float(np.mean(means))), share_of(min(means))] if len(means) > 1 else []
        table.add_row(name, *cells, str(difference_of(apart)), *more)
    Console(width=60 + 24 * len(table.columns)).print(table)


if __name__ == "__main__":
    main()

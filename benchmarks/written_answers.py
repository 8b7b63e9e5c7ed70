"""Answers that several prompts write about the same texts: what was read is kept, or read again for each prompt.

    python benchmarks/written_answers.py --backbone smollm2

The two take turns, and medians are shown.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from sides import rows, seconds

from preface.backbones.contexts import Inputs
from preface.backbones.load import load_backbone
from preface.labelling.free_text import FreeText, write_each
from preface.labelling.labeller import Labeller
from preface.prompts import Prompts


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--length", type=int, default=200, help="pieces of each text")
    parser.add_argument("--pieces", type=int, default=16, help="most pieces of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    backbone = load_backbone(options.backbone, dtype=options.dtype)
    ids = rows(options.texts, len(backbone.embeddings), options.length)
    text = FreeText(backbone, "Answer:", options.pieces)
    each, every = (Labeller(backbone, Prompts.bare(size), text) for size in (1, options.prompts))
    kept = Inputs(backbone, ids, keep=True)
    kept.keep(range(len(ids)))

    def again() -> None:
        for _ in range(options.prompts):
            write_each(each, text, Inputs(backbone, ids))

    again()  # the first is slower
    turns = [(seconds(lambda: write_each(every, text, kept)), seconds(again)) for _ in range(options.rounds)]
    once, anew = map(median, zip(*turns, strict=True))
    print(
        f"{options.backbone}, {options.prompts} prompts, {options.texts} texts of {options.length} pieces: kept "
        f"{once:.3f} s, read for each prompt {anew:.3f} s ({anew / once:.1f} times)"
    )


if __name__ == "__main__":
    main()

"""Tuning weights in float32 and in mixed precision: seconds of a step and of an evaluation.

    python benchmarks/tuned_weights.py --backbone smollm2 --tuning lora

Sixteen texts of 15 to 60 pieces; the two take turns, and medians are shown.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any, get_args

import torch
from sides import seconds

from preface.backbones.load import load_checkpoint
from preface.tuning.tunable import Tuning, in_mixed_precision, make_tunable
from preface.tuning.tuned import piece_losses

ROWS, SHORTEST, LONGEST = 16, 15, 60
LEAD_IN = (5, 6)


class Side:
    """A model that is tuned in one precision."""

    def __init__(self, backbone: str, tuning: Tuning, mixed: bool) -> None:
        model, _ = load_checkpoint(backbone, torch.float32)
        if mixed:
            in_mixed_precision(model)
        self.model, self.parameters = make_tunable(model, tuning)
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(SHORTEST, LONGEST, (ROWS,), generator=generator).tolist()
        most = self.model.config.vocab_size
        self.texts = [torch.randint(10, most, (length,), generator=generator).tolist() for length in lengths]

    def losses(self) -> torch.Tensor:
        return piece_losses(self.model, self.texts, [[100]] * ROWS, LEAD_IN)[0]

    def step(self) -> None:
        self.model.train()
        torch.autograd.grad(self.losses().sum(), list(self.parameters.values()), allow_unused=True)

    @torch.inference_mode()
    def evaluation(self) -> None:
        self.model.eval()
        self.losses()


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--tuning", default="lora", choices=get_args(Tuning))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    sides = {
        "float32": Side(options.backbone, options.tuning, False),
        "mixed precision": Side(options.backbone, options.tuning, True),
    }
    for part in ("step", "evaluation"):
        took: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name, side in sides.items():
                found = seconds(getattr(side, part))
                if turn:  # the first is slower
                    took[name].append(found)
        said = ", ".join(f"{name} {median(times):.3f} s" for name, times in took.items())
        plain, mixed = (median(times) for times in took.values())
        print(f"{options.backbone}, {options.tuning}, {part} of {ROWS} texts: {said} ({plain / mixed:.1f} times)")


if __name__ == "__main__":
    main()

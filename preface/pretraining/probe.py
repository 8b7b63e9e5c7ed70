"""What a small prefix can do with unfinished weights: pre-training is judged by that."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preface.backbones.load import backbone_from
from preface.methods import PrefixTuning
from preface.tuning.train import train

LENGTH = 8
RATES = (1e-2, 1e-1)
STEPS = 100
ROWS = 3200
"""A prefix of 8 at all sites, two rates and one seed, 100 steps of 32 of the same 3,200 rows."""


def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    folder: Path,
    data: str | Path | None = None,
) -> float:
    """The development score, in [0, 1], of a small prefix on the task; the run is left in `folder`.

    The model is copied, so its weights and gradients stay as they are.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    twin: Any = copy.deepcopy(model)
    twin.to(torch.float32)
    backbone = backbone_from(f"weights of {folder.parent.parent.name}", twin, tokenizer)
    run = train(
        backbone,
        task,
        PrefixTuning(length=LENGTH),
        data=data,
        train_rows=ROWS,
        learning_rates=RATES,
        seeds=(0,),
        steps=STEPS,
        evaluate_every=STEPS // 2,
        out=folder,
    )
    return run.best.score

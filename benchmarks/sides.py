"""Both sides of a comparison: Preface and PEFT on one frozen model, rows, batch and number of virtual tokens."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from preface.backbones import batching
from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import EMBEDDED, keep_freed_memory, processor
from preface.backbones.t5 import T5Backbone
from preface.methods import Method
from preface.methods.init import Initializer
from preface.tuning.step import Step

BATCH = 16
TARGET = [1465, 1]
"""A label word of one piece, and `</s>`."""
SST2_LENGTHS = [
    0, 0, 0, 1740, 5280, 5734, 4939, 4403, 3921, 3489, 3104, 2823, 2639, 2260, 2120, 1953, 1774, 1652, 1493,
    1398, 1282, 1201, 1118, 1069, 971, 911, 824, 777, 683, 688, 627, 574, 529, 515, 467, 418, 378, 373, 334,
    314, 257, 230, 256, 226, 189, 177, 144, 134, 105, 110, 96, 84, 72, 59, 55, 56, 50, 41, 35, 35, 29, 30, 20,
    11, 15, 14, 9, 7, 8, 3, 3, 6, 2, 1, 2, 0, 1, 1, 1,
]  # fmt: skip
"""How many of SST-2's 67,349 training inputs have 0, 1, 2, … pieces, `</s>` included; mean 14.4."""
TINY = {"vocab_size": 2048, "d_model": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2, "d_ff": 64}
"""For tests; its vocabulary holds the label words."""
SMALL = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "num_heads": 8, "num_layers": 6, "d_ff": 2048}
BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "num_heads": 12, "num_layers": 12, "d_ff": 3072}
LARGE = {"vocab_size": 32128, "d_model": 1024, "d_kv": 64, "num_heads": 16, "num_layers": 24, "d_ff": 4096}
SHAPES = {"tiny": TINY, "t5-small": SMALL, "t5-base": BASE, "t5-large": LARGE}


def model(shape: dict[str, int], attn: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A T5 of random weights, the same for every call, without dropout."""
    torch.manual_seed(0)
    config = T5Config(**shape, decoder_start_token_id=0, dropout_rate=0.0)
    with torch.device(device):
        return T5ForConditionalGeneration._from_config(config, attn_implementation=attn, dtype=dtype)


def backbone(shape: dict[str, int], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Backbone:
    """Preface's side of `model`."""
    if device == "cpu":
        keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    return T5Backbone("random", model(shape, "sdpa", dtype, device), tokenizer)


def rows(count: int, vocabulary: int = 30000, length: int | None = None) -> list[list[int]]:
    """Random pieces in inputs of SST-2's lengths, or all of one length."""
    draw = random.Random(0)
    lengths = draw.choices(range(len(SST2_LENGTHS)), weights=SST2_LENGTHS, k=count)
    return [[draw.randrange(100, vocabulary) for _ in range(length or size)] for size in lengths]


class Ours:
    """A population of `members` on the backbone, batches as `preface train` cuts them."""

    def __init__(
        self,
        frozen: Backbone,
        method: Method,
        inputs: Sequence[Sequence[int]],
        members: int = 1,
        capture: bool = False,
        target: Sequence[int] = TARGET,
    ) -> None:
        frozen.kept.clear()
        module = method.build(frozen, Initializer.parse("random"), range(members))
        self.inputs, self.keep = Inputs(frozen, inputs), module.leaves_reading
        self.train = Step(frozen, module, self.inputs, [target] * len(inputs), capture=capture)
        self.members = list(range(members))

    def epochs(self, steps: int, epochs: int) -> Iterator[list[list[int]]]:
        """The batches of all members: `steps` of an epoch's, `epochs` times over, in another order each time.

        They are taken at even distances from an epoch's batches sorted by length, so that few stand for all; their
        rows are then all the data there are. Members see the same rows, shuffled within batches, as in a training
        all see the same data.
        """
        lengths = self.inputs.lengths
        every = batching.epoch(lengths, 0, 0, BATCH)
        every.sort(key=lambda batch: max(lengths[index] for index in batch))
        chosen = [every[(2 * place + 1) * len(every) // (2 * steps)] for place in range(steps)]
        rows = sorted(index for batch in chosen for index in batch)
        frozen = self.train.backbone
        frozen.kept.clear()
        self.inputs = self.train.inputs = Inputs(frozen, [self.inputs.ids[index] for index in rows], self.keep)
        at = {index: place for place, index in enumerate(rows)}
        for number in range(epochs):
            places = list(range(steps))
            random.Random(number).shuffle(places)
            for place in places:
                yield [self._shuffled([at[index] for index in chosen[place]], member) for member in self.members]

    @staticmethod
    def _shuffled(batch: list[int], member: int) -> list[int]:
        return random.Random(member).sample(batch, len(batch))

    def __call__(self, batches: list[list[int]]) -> torch.Tensor:
        return self.train(batches, self.members, [1e-3] * len(self.members))


class Peft:
    """PEFT's prompt or prefix tuning, batches drawn at random and padded to their longest row, as its users do."""

    def __init__(
        self,
        kind: str,
        length: int,
        inputs: Sequence[Sequence[int]],
        shape: dict[str, int],
        attn: str = "sdpa",
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
        device: str = "cpu",
    ) -> None:
        import peft

        config = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}[kind](
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length
        )
        if kind == "prompt":
            config.num_transformer_submodules = 1  # else it allocates twice the rows that it uses
        self.model: Any = peft.get_peft_model(model(shape, attn, dtype, device), config).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self.inputs, self.draw, self.device = inputs, random.Random(0), device
        self.precision: Callable[[], AbstractContextManager[Any]] = (
            (lambda: torch.autocast(device, torch.bfloat16)) if autocast else nullcontext
        )

    def padded(self, chosen: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, chosen))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in chosen], device=self.device)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def __call__(self) -> torch.Tensor:
        chosen = self.draw.sample(list(self.inputs), BATCH)
        labels = torch.tensor([TARGET] * BATCH, device=self.device)
        with self.precision():
            loss = self.model(**self.padded(chosen), labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def hardware(device: str = "cpu") -> str:
    """The GPU's name, or the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"


def show(table: Table) -> None:
    """In a terminal as wide as that; in a file, one line each."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def seconds(work: Callable[[], Any], device: str = "cpu") -> float:
    """How long it takes, until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began

"""Prompts on a decoder-only model, measured here and now beside PEFT.

    python benchmarks/decoder_only.py [--runs 5] [--steps 6] [--only NAME …] [--out results]

Random weights of SmolLM2-135M's shape (what is computed is the same), batch 16 a prompt, both sides in one process,
runs alternating, medians; both sides at their best setting, as in `bench.py`. A row is a text of SST-2's lengths, a cue
of three pieces, and a label word of one. Writes `decoder-only.json` and `decoder-only.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from bench import EPOCHS, Alternation, Measure, Runs, Side, digits, fastest, markdown, peft_settings, print_table, ratio
from rich.console import Console
from rich.progress import track
from sides import BATCH, Ours, hardware, rows, seconds
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from preface.backbones.base import Backbone
from preface.backbones.causal import CausalBackbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import EMBEDDED, keep_freed_memory
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import Labeller
from preface.methods import Method, PrefixTuning, PromptTuning

SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
TINY = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
CUE = [1500, 1501, 1502]
WORDS = [1465, 1841]
"""Two label words of one piece."""
LENGTH = 10
"""Virtual tokens."""


def model(shape: dict[str, int], attn: str, dtype: torch.dtype = torch.float32) -> Any:
    """A Llama of random weights, the same for every call."""
    torch.manual_seed(0)
    config = LlamaConfig(**shape, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    return LlamaForCausalLM._from_config(config, attn_implementation=attn, dtype=dtype)


def backbone(shape: dict[str, int], dtype: torch.dtype = torch.float32) -> Backbone:
    """Preface's side of `model`."""
    keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "nano")
    return CausalBackbone("random", model(shape, "sdpa", dtype), tokenizer)


class Peft:
    """PEFT's prompt or prefix tuning, batches drawn at random and padded to their longest row, as its users do."""

    def __init__(
        self,
        kind: str,
        texts: Sequence[Sequence[int]],
        shape: dict[str, int],
        attn: str = "sdpa",
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
    ) -> None:
        import peft

        config = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}[kind](
            task_type="CAUSAL_LM", num_virtual_tokens=LENGTH
        )
        self.model: Any = peft.get_peft_model(model(shape, attn, dtype), config).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self.texts, self.draw = texts, random.Random(0)
        self.precision: Callable[[], AbstractContextManager[Any]] = (
            (lambda: torch.autocast("cpu", torch.bfloat16)) if autocast else nullcontext
        )

    def padded(self, texts: Sequence[Sequence[int]], word: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        """Text, cue and word, padded on the left, where generation goes on at the end of each row."""
        whole = [[*text, *CUE, *word] for text in texts]
        longest = max(map(len, whole))
        ids = torch.tensor([[*[0] * (longest - len(row)), *row] for row in whole])
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def __call__(self) -> torch.Tensor:
        batch = self.padded(self.draw.sample(list(self.texts), BATCH), WORDS[:1])
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -1] = WORDS[0]
        with self.precision():
            loss = self.model(**batch, labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def peers(kind: str, texts: Sequence[Sequence[int]], shape: dict[str, int]) -> dict[str, Peft]:
    """PEFT in each of its settings."""
    return {name: Peft(kind, texts, shape, **setting) for name, setting in peft_settings().items()}


class DecoderOnly(Alternation):
    """SmolLM2-135M's shape."""

    def __init__(self, runs: int, steps: int, shape: dict[str, int] = SMOLLM2) -> None:
        self.runs, self.steps, self.shape = runs, steps, shape
        self.vocabulary = min(20_000, shape["vocab_size"])
        self.frozen = cache(partial(backbone, shape))
        self.peft = cache(self._peft)

    def texts(self, length: int | None = None, count: int = 10_240) -> list[list[int]]:
        return rows(count, self.vocabulary, length)

    def _peft(self, kind: str, length: int | None = None) -> Side:
        """A training step of PEFT's, in its best setting."""
        return fastest([Side(name, side) for name, side in peers(kind, self.texts(length), self.shape).items()], runs=2)

    def training(self, method: Method, members: int, epochs: int, steps: int, length: int | None) -> Side:
        """Some epochs of ours from nothing: reading is included. What is read holds the cue but for its last piece."""
        texts = [[*text, *CUE[:-1]] for text in self.texts(length)]

        def work(frozen: Backbone) -> None:
            side = Ours(frozen, method, texts, members, target=WORDS[:1])
            for batches in side.epochs(steps, epochs):
                side(batches)

        return self.ours(work)

    def against_peft(
        self, name: str, method: Method, kind: str, target: float, *, members: int = 1, epochs: int = 1,
        length: int | None = None,
    ) -> list[Measure]:  # fmt: skip
        steps = self.steps if length is None else max(2, self.steps // 3)
        ours, step = self.training(method, members, epochs, steps, length), self.peft(kind, length)
        peer = Side(step.setting, lambda: [step.work() for _ in range(steps)])
        times = self.alternate(ours, peer, epochs * steps, steps / members)
        return [ratio(name, times, (ours, peer), "s a step", target)]

    def answer_prefix(self) -> list[Measure]:
        name = "answer-side prefix, five epochs with reading, PEFT's prefix"
        return self.against_peft(name, ANSWER, "prefix", 4, epochs=EPOCHS)

    def long_texts(self) -> list[Measure]:
        return self.against_peft("… texts of 128 pieces", ANSWER, "prefix", 12, epochs=EPOCHS, length=128)

    def population(self) -> list[Measure]:
        name = "eight answer-side prefixes as one population, eight PEFT runs"
        return self.against_peft(name, ANSWER, "prefix", 20, members=8, epochs=EPOCHS)

    def prefix_before(self) -> list[Measure]:
        return self.against_peft("prefix before the text, PEFT's", BEFORE, "prefix", 1.2)

    def prompt_before(self) -> list[Measure]:
        return self.against_peft("prompt before the text, PEFT's", PromptTuning(length=LENGTH), "prompt", 1.2)

    def many_prompts(self, prompts: int = 64) -> list[Measure]:
        """One text of 128 pieces under many prompts: the probabilities of two label words under each."""
        (text,) = self.texts(128, 1)
        words = LabelWords(("a", "b"), tuple((word,) for word in WORDS), tuple(CUE[-1:]), ended=False)

        def work(frozen: Backbone) -> None:
            with torch.no_grad():
                population = Ours(frozen, ANSWER, [text], prompts, target=WORDS[:1]).train.module()
            labeller = Labeller(frozen, population, words)
            started.append(seconds(lambda: labeller.label_each(Inputs(frozen, [[*text, *CUE[:-1]]]))))

        def theirs(peer: Peft) -> None:
            peer.model.eval()
            with torch.inference_mode(), peer.precision():
                peer.model(**peer.padded([text]), logits_to_keep=1)

        started: list[float] = []
        ours = self.ours(work)
        sides = [Side(name, partial(theirs, peer)) for name, peer in peers("prefix", [text], self.shape).items()]
        peer = fastest(sides, runs=3)
        times: Runs = {"ours": [], "peer": []}
        for _ in range(self.runs):
            ours.work()
            times["ours"].append(started[-1])
            times["peer"].append(prompts / 8 * seconds(lambda: [peer.work() for _ in range(8)]))
        note = f"8 of PEFT's {prompts} passes measured, each with another prompt for the same text"
        name = f"{prompts} prompts answer about a text of 128 pieces, as many PEFT passes"
        return [ratio(name, times, (ours, peer), "s", 20, note)]

    def scoring(self, count: int = 400, theirs_of_them: int = 100) -> list[Measure]:
        """Label words ranked for rows of SST-2's lengths; PEFT's `generate` of one piece for some of them."""
        texts = self.texts(count=count)
        words = LabelWords(("a", "b"), tuple((word,) for word in WORDS), tuple(CUE[-1:]), ended=False)

        def work(frozen: Backbone) -> None:
            with torch.no_grad():
                prompts = Ours(frozen, ANSWER, texts, target=WORDS[:1]).train.module()
            Labeller(frozen, prompts, words).label(Inputs(frozen, [[*text, *CUE[:-1]] for text in texts]))

        def written(peer: Peft, batch: int) -> None:
            peer.model.eval()
            with torch.inference_mode(), peer.precision():
                for start in range(0, theirs_of_them, batch):
                    padded = peer.padded(texts[start : min(start + batch, theirs_of_them)])
                    peer.model.generate(**padded, max_new_tokens=1, do_sample=False)

        every = peers("prefix", texts, self.shape)
        sides = [
            Side(f"{name}, batch {batch}", partial(written, peer, batch))
            for name, peer in every.items()
            for batch in (16, 64)
        ]
        ours, peer = self.ours(work), fastest(sides)
        times = self.alternate(ours, peer, count, theirs_of_them)
        scaled = {side: [2_000 * time for time in values] for side, values in times.items()}
        note = f"{count} and {theirs_of_them} rows measured, given for 2,000"
        return [ratio("label scores of 2,000 rows, PEFT's generate", scaled, (ours, peer), "s", 3, note)]


ANSWER = PrefixTuning(length=LENGTH, sites=("answer",))
BEFORE = PrefixTuning(length=LENGTH, sites=("input",))
MEASURES = ("answer_prefix", "long_texts", "population", "prefix_before", "prompt_before", "many_prompts", "scoring")


def write(measures: list[Measure], out: Path) -> None:
    """`decoder-only.json` and `decoder-only.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "decoder-only.json").write_text(json.dumps([asdict(item) for item in measures], indent=1) + "\n")
    (out / "decoder-only.md").write_text(markdown(measures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Prompts on a decoder-only model, Preface beside PEFT")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of an epoch; a third of them where texts are long")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="some of the measures")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    both = DecoderOnly(options.runs, options.steps)
    measures: list[Measure] = []
    console = Console(stderr=True)
    for name in track(options.only or MEASURES, "measuring", console=console, disable=not console.is_terminal):
        measures += getattr(both, name)()
        write(measures, options.out)  # nothing measured is lost
        print(measures[-1].measure, digits(measures[-1].ratio), flush=True)
    print_table(f"batch {BATCH} a prompt, SmolLM2-135M's shape; {hardware()}", measures)


if __name__ == "__main__":
    main()

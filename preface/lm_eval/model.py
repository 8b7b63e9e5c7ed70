"""The model that lm-evaluation-harness calls `preface`; importing this module registers it there.

A context is read as a text, and what lm-eval asks about it is answered under the prompt. Each context is read once,
whatever number of continuations is asked about. Without a prompt the numbers are those of lm-eval's own `hf`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import lm_eval.models  # noqa: F401 — those of its own, which it looks for only while there is none
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from preface.backbones.base import Backbone, Context
from preface.backbones.batching import by_length
from preface.backbones.pieces import CausalPieces
from preface.errors import UserError
from preface.labelling.fit import backbone_of, loaded
from preface.labelling.labeller import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from preface.lm_eval.continuations import continuation_scores
from preface.prompts import Prompts
from preface.records.card import SavedPrompt, load_prompt
from preface.terminal.progress import progress

MAX_LENGTH = 2_048
"""Tokens of a context, where neither a model nor its tokenizer says how many there may be."""
MOST_WRITTEN = 256
"""Pieces that are generated where a task does not say; both as `hf` has them."""
TOGETHER = 256
"""Pieces of one context's continuations that are scored in one row: attention costs their square."""

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""What is asked in words, if lm-eval keeps answers by it; the pieces of a context, and those of its continuation."""


@register_model("preface")
class PrefaceLM(TemplateLM):  # type: ignore[misc]
    """A backbone, and the prompt that it answers under, if there is one."""

    def __init__(
        self,
        prompt: str | None = None,
        backbone: Backbone | str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_length: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **others: Any,
    ) -> None:
        """
        Args:
            prompt: the folder of a run or of a prompt, or one of the hub; None: the bare backbone.
            backbone: default: the one that the prompt was trained on.
            dtype, device: as for `load_backbone`; lm-eval's command says `cuda:0` where it is not told otherwise, which
                is `auto` where there is none.
            max_length: tokens of context and continuation; of a longer context the end is read. Default: the model's.
            batch_size, max_batch_size: lm-eval gives them always; rows go together here by their length.
        """
        super().__init__()
        if others:
            known = "prompt, backbone, dtype, device, max_length"
            raise UserError(f"model_args {next(iter(others))}: there is no such argument; there are {known}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"
        saved = None if prompt is None else _single(prompt)
        if saved is None:
            self.backbone = loaded(backbone, dtype, device)
        else:
            self.backbone = backbone_of(saved.card, backbone, dtype=dtype, device=device)
            saved.check_sizes(self.backbone)
        self.prompts: Prompts | None = None
        if saved is not None:
            self.prompts = saved.prompts.to(self.backbone.device, self.backbone.dtype)
        self.cue = "" if saved is None else saved.card.task.cue
        self._device = self.backbone.device
        self.tokenizer: PreTrainedTokenizerBase = self.backbone.tokenizer
        self.is_causal = isinstance(self.backbone, CausalPieces)
        self.backend = "causal" if self.is_causal else "seq2seq"
        prompt_length = 0 if self.prompts is None else self.prompts.reading_length + self.prompts.answering_length
        self.max_length = (max_length or _longest(self.backbone)) - prompt_length
        self.budget = TOKEN_BUDGET if self.backbone.device.type == "cpu" else GPU_TOKEN_BUDGET
        self.documents: list[tuple[str | None, int | None]] = []  # of the requests that are being answered

    # what lm-eval asks of a tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.backbone.end

    @property
    def prefix_token_id(self) -> int:
        """What stands in the place of an empty context."""
        begin = self.tokenizer.bos_token_id
        return int(self.backbone.end if begin is None else begin)  # type: ignore[arg-type]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Begun or ended as the backbone reads texts, unless the string is begun already, as by a chat template."""
        pieces: list[int] = self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
        if add_special_tokens is False:
            return pieces
        if not self.is_causal:
            return [*pieces, self.backbone.end]
        begin = list(self.backbone.begin)
        return pieces if begin and pieces[:1] == begin else [*begin, *pieces]

    @property
    def tokenizer_name(self) -> str:
        return self.backbone.name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    # what it asks of a model

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As lm-eval does it, which does not say further on whose document a request is about."""
        self.documents = [(request.task_name, request.doc_id) for request in requests]
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each continuation its log-probability, and whether the model would have written it itself."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        asked: dict[tuple[int, ...], list[int]] = {}  # requests by their context
        for number, (_words, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation) if self.is_causal else self.max_length
            asked.setdefault(tuple(context[-max(room, 1) :]), []).append(number)
        contexts, answers = [*asked], self._answers(requests)
        with progress("lm-eval", len(requests), "continuations") as advance:
            for batch in by_length([len(context) for context in contexts], self.budget):
                some = {contexts[place]: asked[contexts[place]] for place in batch}
                for number, answer in self._scored(some, answers):
                    found[number] = answer
                    if (words := requests[number][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", words, answer)
                    advance()
        return found

    def _scored(
        self, asked: Mapping[tuple[int, ...], Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Read some contexts, and score what is asked about each: the numbers of requests, and what is found."""
        read, lead_ins = zip(*(self._split(context) for context in asked), strict=True)
        context = self.backbone.read(*self._padded(read), self.prompts)
        rows = [(row, part) for row, numbers in enumerate(asked.values()) for part in _parts(numbers, answers)]
        sizes = [len(read[row]) + sum(len(answers[number]) for number in part) for row, part in rows]
        for places in by_length(sizes, self.budget):
            some = [rows[place] for place in places]
            chosen = torch.tensor([row for row, _ in some], device=self.backbone.device)
            scores = continuation_scores(
                self.backbone,
                Context(context.states[chosen], context.mask[chosen]),
                [lead_ins[row] for row, _ in some],
                [[answers[number] for number in part] for _, part in some],
                self.prompts,
            )
            for (_, part), own in zip(some, scores, strict=True):
                yield from zip(part, own, strict=True)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in windows as long as the model takes.

        Raises UserError under a prompt.
        """
        if self.prompts is not None:
            raise UserError(
                "prompt: this task asks how likely whole texts are, and a prompt has learned to answer about a text, "
                "not to foretell it; leave prompt= out to have the bare backbone's numbers"
            )
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            pieces = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(pieces, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (log_probability, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += log_probability
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.inference_mode()
    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is written after each context, up to the first of the strings that a task stops at."""
        written = [""] * len(requests)
        for lead_in, wanted, some in self._alike(requests):
            options, stops = _options(wanted, self.tokenizer)
            for batch in by_length([len(read) for _, read in some], self.budget):
                ids, mask = self._padded([some[place][1] for place in batch])
                context = self.backbone.read(ids, mask, self.prompts)
                tokens = self.backbone.generate(context, self.prompts, lead_in=lead_in, **options)
                texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                for place, text in zip(batch, texts, strict=True):
                    number = some[place][0]
                    written[number] = min((text.split(stop)[0] for stop in stops), key=len, default=text)
                    self.cache_hook.add_partial("generate_until", requests[number].args, written[number])
        return written

    def _alike(
        self, requests: Sequence[Instance]
    ) -> Iterator[tuple[tuple[int, ...], Mapping[str, Any], list[tuple[int, list[int]]]]]:
        """Requests that may be generated together: what they go on after, how, and of each its number and what is
        read."""
        groups: dict[tuple[tuple[int, ...], str], list[tuple[int, list[int]]]] = {}
        for number, request in enumerate(requests):
            text, wanted = request.args
            room = self.max_length - _most_written(wanted) if self.is_causal else self.max_length
            if room < 1:
                raise UserError(f"max_gen_toks {_most_written(wanted)}: {self.backbone.name} takes {self.max_length}")
            context = (self.tok_encode(text) or [self.prefix_token_id])[-room:]
            read, lead_in = self._split(context)
            groups.setdefault((lead_in, json.dumps(wanted, sort_keys=True)), []).append((number, read))
        for (lead_in, wanted), some in groups.items():
            yield lead_in, json.loads(wanted), some

    # how a backbone reads and answers

    def _split(self, context: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
        """What is read of a context, and the pieces that an answer begins after: of a decoder-only model the context's
        last. A prompt answers about something: where nothing is left, the end of another text is read."""
        if not self.is_causal:
            return [*context], self.backbone.lead_in(self.cue)
        read = [*context[:-1]]
        if not read and self.prompts is not None:
            read = [self.backbone.end]
        return read, (context[-1],)

    def _answers(self, requests: Sequence[Request]) -> list[list[int]]:
        """The pieces of continuations. Under a prompt they end as those that it was trained on
        (`Pieces.answer_pieces`), whatever other documents ask about the same context."""
        answers = [[*continuation] for _, _, continuation in requests]
        if self.prompts is None:
            return answers
        together = defaultdict(list)  # what one document asks about one context
        for answer, document, (_, context, _) in zip(answers, self.documents, requests, strict=True):
            together[document, tuple(context)].append(answer)
        for some in together.values():
            if not self.is_causal or _one_begins_another(some):
                for answer in some:
                    answer.append(self.backbone.end)
        return answers

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]`; of a text without pieces nothing is seen."""
        ids, mask = self.backbone.pad([[*text] or [self.backbone.end] for text in texts])
        for row, text in enumerate(texts):
            if not text:
                mask[row] = 0
        return ids, mask


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """A row ends where one of some strings is in what was written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, stops

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


def _single(prompt: str) -> SavedPrompt:
    """Raises UserError for a prompt that knows only the labels of its task."""
    saved = load_prompt(prompt)
    saved.refuse_shared()
    if saved.card.ensemble is not None:
        raise UserError(f"{saved.folder}: an ensemble only chooses among its labels; give one of its prompts")
    if saved.prompts.labels is not None:
        raise UserError(f"{saved.folder}: its label vectors only choose among its labels; give a prompt without them")
    return saved


def _longest(backbone: Backbone) -> int:
    """The tokens that a model takes, as `hf` finds them."""
    config = backbone.model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if (length := getattr(config, name, None)) is not None:
            return int(length)
    length = int(backbone.tokenizer.model_max_length)
    return length if length < 10**9 else MAX_LENGTH


def _one_begins_another(answers: Sequence[Sequence[int]]) -> bool:
    """Whether one is the beginning of another. In order, what a sequence begins comes right after it."""
    distinct = sorted({tuple(pieces) for pieces in answers})
    return any(after[: len(before)] == before for before, after in pairwise(distinct))


def _parts(numbers: Sequence[int], answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Requests about one context, so many as have `TOGETHER` pieces, or one."""
    part: list[int] = []
    for number in numbers:
        if part and sum(len(answers[other]) for other in (*part, number)) > TOGETHER:
            yield part
            part = []
        part.append(number)
    yield part


def _most_written(wanted: Mapping[str, Any]) -> int:
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return int(next((wanted[name] for name in names if wanted.get(name) is not None), MOST_WRITTEN))


def _options(wanted: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], list[str]]:
    """What a task wants of generation, as Transformers takes it, and the strings that it stops at."""
    options = {name: value for name, value in wanted.items() if not name.startswith("max_")}
    stops = options.pop("until", None) or []
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]
    temperature = float(options.pop("temperature", None) or 0)
    sample = options.pop("do_sample", None)
    options["do_sample"] = temperature > 0 if sample is None else bool(sample)
    if options["do_sample"]:
        options["temperature"] = temperature or 1.0
    if stops:
        options["stopping_criteria"] = StoppingCriteriaList([_Stops(tokenizer, stops)])
    return options | {"max_new_tokens": _most_written(wanted)}, stops

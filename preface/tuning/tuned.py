"""A model whose weights are tuned on a task: what a loop trains where it trains no prompts.

The model runs as Transformers runs it: nothing of Preface's frozen layers, kept contexts or populations is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from preface.backbones import batching
from preface.backbones.base import set_dropout
from preface.labelling.free_text import FreeText, Wanted
from preface.labelling.label_words import LabelWords
from preface.labelling.labeller import TOKEN_BUDGET, OnBatch, Prediction, predictions_of
from preface.terminal.progress import warn
from preface.tuning.loop import Evaluation, Position, note_of
from preface.tuning.optimizers import clip_gradients, optimizer
from preface.tuning.recipe import Recipe
from preface.tuning.rows import Judged, Rows
from preface.tuning.schedules import Budget, done_since, rate_share
from preface.tuning.standing import Standing
from preface.tuning.step import shares_of


class Tuned:
    """What a loop trains in `train`: one model, at one rate, with one seed."""

    def __init__(
        self,
        title: str,
        model: Any,
        parameters: dict[str, Any],
        rows: Rows,
        recipe: Recipe,
        metric_name: str,
    ) -> None:
        """`parameters`: those of the model that are tuned; `recipe`: with one rate and one seed."""
        self.title, self.model, self.parameters = title, model.eval(), parameters
        self.rows, self.metric = rows, metric_name
        self.targets = rows.wanted.targets(rows.answers)
        self.recipe = recipe = recipe.resolve(rows.steps_an_epoch(recipe))
        assert recipe.steps is not None
        assert recipe.evaluate_every is not None
        self.device: torch.device = model.device
        # our optimizers are of populations: this is one of one
        self.stacked = {name: parameter.detach()[None] for name, parameter in parameters.items()}
        self.optimizer = optimizer(recipe.optimizer, self.stacked, recipe.weight_decay)
        self.kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.best = Standing()
        self.loss: float | None = None
        self.order: Iterator[list[int]] | None = None
        self.weights = rows.weights(recipe)
        self.budget = Budget(recipe.steps)
        self.evaluations: Sequence[Evaluation] = [Evaluation("development", recipe.evaluate_every, self._evaluate)]

    @property
    def finished(self) -> bool:
        return not self.best.active

    @property
    def note(self) -> str:
        return note_of(self.loss, self.standing)

    @property
    def standing(self) -> str:
        """How well it does on rows that are not trained on, in a few words."""
        return f"dev {self.best.score:.3f}"

    def step(self, number: int, done: float) -> int:
        recipe = self.recipe
        assert recipe.steps is not None
        if number == 0:
            torch.manual_seed(recipe.seeds[0])  # for dropout alone
        if self.order is None:
            self.order = batching.endless(
                self.rows.lengths, recipe.seeds[0], recipe.batch_size, recipe.token_budget, skip=number
            )
        chosen = next(self.order)
        set_dropout(self.model, recipe.dropout)
        self.model.train()
        try:
            pieces, labels = piece_losses(
                self.model,
                [self.rows.training[index] for index in chosen],
                [self.targets[index] for index in chosen],
                self.rows.wanted.lead_in,
            )
            owner = torch.zeros(len(chosen), dtype=torch.long)
            weights = None if self.weights is None else torch.tensor([self.weights[index] for index in chosen])
            shares = shares_of(labels.cpu(), owner, 1, weights).to(self.device)
            loss = (pieces.sum(1) * shares).sum()
            gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        finally:
            self.model.eval()
        for stacked, gradient in zip(self.stacked.values(), gradients, strict=True):
            stacked.grad = None if gradient is None else gradient[None]
        clip_gradients(self.stacked, recipe.clip)
        share = rate_share(recipe.schedule, number, done_since(recipe.warmup, number, recipe.steps), recipe.warmup)
        self.optimizer.step(torch.tensor([recipe.learning_rates[0] * share], device=self.device))
        for stacked in self.stacked.values():
            stacked.grad = None
        self.loss = float(loss.detach())
        return 0

    def log(self, at: Position) -> dict[str, Any] | None:
        if self.loss is None:
            return None
        if not math.isfinite(self.loss):
            self._diverge(f"the loss is not finite at step {at.steps}")
        return {
            "step": at.steps,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "seconds": round(at.seconds, 2),
        }

    def _evaluate(self, at: Position) -> Iterator[dict[str, Any]]:
        """Score the development rows; remember the best."""
        score, loss = self._score_and_loss()
        yield {"step": at.steps, "dev_score": score, "dev_loss": loss if math.isfinite(loss) else None}
        if not math.isfinite(loss):
            self._diverge(f"the development loss is not finite at step {at.steps}")
        elif self.best.judge(score, loss, at.steps, self.recipe.patience):
            self._keep()

    def _keep(self) -> None:
        for name, parameter in self.parameters.items():
            self.kept[name].copy_(parameter.detach())

    def _score_and_loss(self) -> tuple[float, float]:
        """On the development rows, as prompts are judged (`preface.tuning.rows.Judged`)."""
        rows, wanted = self.rows, self.rows.wanted
        if isinstance(wanted, FreeText):
            loss = answer_loss(self.model, rows.development, wanted.targets(rows.held_out_answers), wanted.lead_in)
            return rows.score(self.metric, written_answers(self.model, rows.development, wanted)), loss
        found = self.judged()
        return found.score, found.loss

    def judged(self) -> Judged:
        """How the model does on the development rows of a task with labels."""
        rows = self.rows
        return rows.judged(self.metric, label_scores(self.model, rows.development, rows.labels))

    def _diverge(self, why: str) -> None:
        warn(f"{self.title}: {why}; it stops there")
        self.best.active = False

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"parameters.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.kept.items()}
        return tensors | {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}

    def record(self) -> dict[str, Any]:
        return {"best": asdict(self.best)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.best = Standing(**record["best"])
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


def piece_losses(
    model: Any, texts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], lead_in: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """−log of the probability of each piece of the answers, and the pieces (−100: none), both `[B, S]`.

    Args:
        texts, answers: their pieces.
        lead_in: the pieces that an answer begins after, which a decoder-only model reads after the text.
    """
    logits, labels = _logits(model, texts, answers, lead_in)
    return _losses(logits, labels), labels


def _logits(
    model: Any,
    texts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    lead_in: Sequence[int],
    encoded: Any = None,
) -> tuple[Tensor, Tensor]:
    """The logits of each piece of the answers `[B, S, vocabulary]`, and the pieces (−100: none) `[B, S]`.

    Nothing else is projected onto the vocabulary. `encoded`: what an encoder made of the texts, if that is known.
    """
    if model.config.is_encoder_decoder:
        begun, labels = (each.to(model.device) for each in batching.answers_of(answers, lead_in))
        ids, mask = _padded(model, texts)
        read = {"input_ids": ids} if encoded is None else {"encoder_outputs": encoded}
        return model(**read, attention_mask=mask, decoder_input_ids=begun).logits, labels
    # each piece is said by the place before it
    whole = [[*text, *lead_in, *answer[:-1]] for text, answer in zip(texts, answers, strict=True)]
    said = [[*[-100] * (len(text) + len(lead_in) - 1), *answer] for text, answer in zip(texts, answers, strict=True)]
    ids, mask = _padded(model, whole)
    labels = batching.padded(said, -100)[0]  # [B, T]
    places = (labels != -100).any(0).nonzero().squeeze(1)  # [S], where some row says something
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=places.to(model.device)).logits
    return logits, labels[:, places].to(model.device)


def _padded(model: Any, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, T]`, where the model is."""
    ids, mask = batching.padded(texts, 0)
    return ids.to(model.device), mask.to(model.device)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−log of the probability of each piece, `[B, S, vocabulary]` and `[B, S]` to `[B, S]`."""
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.view_as(labels)


def predictions(
    model: Any, texts: Sequence[Sequence[int]], wanted: Wanted, on_batch: OnBatch = lambda rows: None
) -> list[Prediction]:
    """What the model says of each text: a label word, or what it writes."""
    if isinstance(wanted, FreeText):
        return [Prediction(answer, None) for answer in written_answers(model, texts, wanted, on_batch)]
    assert isinstance(wanted, LabelWords)
    return predictions_of(label_scores(model, texts, wanted, on_batch), wanted)


@torch.inference_mode()
def label_scores(
    model: Any, texts: Sequence[Sequence[int]], labels: LabelWords, on_batch: OnBatch = lambda rows: None
) -> Tensor:
    """Log-probabilities of the label words after each text, `[N, C]`."""
    scores = torch.empty(len(texts), len(labels.words))
    alike: dict[tuple[int, ...], list[int]] = {}  # words that differ in their last piece alone
    for column, pieces in enumerate(labels.pieces):
        alike.setdefault(pieces[:-1], []).append(column)
    for places in _batches(texts):
        chosen = [texts[place] for place in places]
        encoded = _encoded(model, chosen) if model.config.is_encoder_decoder else None
        for columns in alike.values():
            answers = [labels.pieces[columns[0]]] * len(chosen)
            logits, said = _logits(model, chosen, answers, labels.lead_in, encoded)
            for column in columns:
                own = torch.tensor(labels.pieces[column], device=said.device).repeat(len(chosen))
                scores[places, column] = -_losses(logits, said.masked_scatter(said != -100, own)).sum(1).cpu()
        on_batch(len(places))
    return scores


def _encoded(model: Any, texts: Sequence[Sequence[int]]) -> Any:
    """What an encoder makes of texts, for all answers."""
    ids, mask = _padded(model, texts)
    return model.get_encoder()(input_ids=ids, attention_mask=mask)


@torch.inference_mode()
def answer_loss(
    model: Any, texts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], lead_in: Sequence[int]
) -> float:
    """The mean of −log of the probability of an answer's pieces, over all texts; arguments as of `piece_losses`."""
    total = 0.0
    for places in _batches(texts):
        losses, _ = piece_losses(
            model, [texts[place] for place in places], [answers[place] for place in places], lead_in
        )
        total += float(losses.sum())
    return total / sum(map(len, answers))


@torch.inference_mode()
def written_answers(
    model: Any, texts: Sequence[Sequence[int]], text: FreeText, on_batch: OnBatch = lambda rows: None
) -> list[str]:
    """What the model writes of each text, the likeliest piece each time."""
    output = [""] * len(texts)
    for places in _batches(texts):
        pieces = _written(model, [texts[place] for place in places], text)
        said = text.backbone.tokenizer.batch_decode(pieces, skip_special_tokens=True)
        for place, answer in zip(places, said, strict=True):
            output[place] = text.word_of(answer)
        on_batch(len(places))
    return output


def _written(model: Any, texts: Sequence[Sequence[int]], text: FreeText) -> Tensor:
    """The pieces after the lead-in, `[B, S]`, padded once an answer has ended."""
    padding, lead_in = model.config.pad_token_id or text.backbone.end, text.lead_in
    more: dict[str, Any] = {}
    if model.config.is_encoder_decoder:
        ids, mask = batching.padded(texts, padding)
        begun = torch.tensor(lead_in, device=model.device).expand(len(texts), -1)
        # Transformers would size the cache by the encoder's depth, and fail where the decoder is deeper
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        more = {"decoder_input_ids": begun, "past_key_values": cache}
    else:  # padded on the left, so that every answer goes on from the last place
        ids, mask = batching.padded([[*item, *lead_in] for item in texts], padding, left=True)
        begun = ids
    output: Tensor = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=text.most,
        do_sample=False,  # whatever the checkpoint would rather do
        num_beams=1,
        pad_token_id=padding,
        **more,
    )
    return output[:, begun.shape[1] :]


def _batches(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts of like length."""
    return batching.by_length([len(text) for text in texts], TOKEN_BUDGET)

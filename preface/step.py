"""One update of a population of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from preface.backbone import Backbone
from preface.encoded import Inputs
from preface.methods.base import Bank
from preface.optimizers import OptimizerName, clip_gradients, optimizer


class Step:
    """What is trained and what trains it: each call is one update of the bank's prompts, side by side.

    A call does not wait for a GPU, but to name the members once some have stopped: what is counted is counted on the
    CPU, and the losses are read when they are wanted.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: Bank,
        inputs: Inputs,
        targets: Sequence[Sequence[int]],
        optimizer_name: OptimizerName = "adamw",
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.backbone, self.bank, self.inputs, self.targets = backbone, bank, inputs, targets
        self.parameters: dict[str, Tensor] = dict(bank.named_parameters())
        self.optimizer = optimizer(optimizer_name, self.parameters, weight_decay)
        self.clip, self.dropout, self.gradient_checkpointing = clip, dropout, gradient_checkpointing

    def __call__(self, batches: Sequence[Sequence[int]], members: Sequence[int], rates: Sequence[float]) -> Tensor:
        """Update each of `members` on its own batch of inputs, at its own learning rate.

        Args:
            batches: which inputs, for each of the members.
            members: the prompts to be trained; the others stay as they are.
            rates: of all P prompts.

        Returns:
            Each member's mean loss before the update, in the order of `members`.
        """
        backbone = self.backbone
        chosen = [index for batch in batches for index in batch]
        rows = [place for place, batch in enumerate(batches) for _ in batch]
        labels = labels_of([self.targets[index] for index in chosen])  # [B, S]
        with backbone.training(self.dropout, self.gradient_checkpointing):
            injection = self.bank.injection().members(members)
            if len({len(batch) for batch in batches}) > 1:  # else each prompt's rows lie side by side, alike many
                injection = injection.on(backbone.send(torch.tensor(rows)))
            if self.dropout > 0:  # drawn anew for each row of each step
                states = backbone.encode(*self.inputs.padded(chosen), injection)
            else:
                states = self.inputs.states(chosen, injection)
            pieces = backbone.losses(states, labels, injection)  # [B, S]
            losses = member_losses(pieces, labels, rows, len(members))  # [members]
            losses.sum().backward()
        clip_gradients(self.parameters, self.clip)
        trained = set(members)
        self.optimizer.step(
            backbone.send(torch.tensor([rate if member in trained else 0.0 for member, rate in enumerate(rates)]))
        )
        for parameter in self.parameters.values():
            parameter.grad = None
        return losses.detach()


def labels_of(targets: Sequence[Sequence[int]]) -> Tensor:
    """Label pieces as `[B, S]`, padded with −100; on the CPU, where counting them keeps no device waiting."""
    return pad_sequence([torch.tensor(pieces) for pieces in targets], batch_first=True, padding_value=-100)


def member_losses(pieces: Tensor, labels: Tensor, rows: Sequence[int], size: int) -> Tensor:
    """Each member's mean cross-entropy over its own label pieces, `[P]`.

    Args:
        pieces: the losses of label pieces, `[B, S]` (`Backbone.losses`).
        labels: `[B, S]`, −100 for padding.
        rows: B numbers, whose row each is.
        size: P.
    """
    owners = torch.tensor(rows)
    counts = torch.zeros(size).index_add(0, owners, (labels != -100).sum(1).float()).clamp(min=1)
    shares = counts[owners].reciprocal()[:, None]  # [B, 1]
    each = pieces * shares.to(pieces.device, non_blocking=True)
    return pieces.new_zeros(size).index_add(0, owners.to(pieces.device, non_blocking=True), each.sum(1))

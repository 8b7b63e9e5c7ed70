"""One update of a population of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from preface.backbones.captured import Captured, Outputs, cuda_graphs, padded_length
from preface.backbones.contexts import Inputs
from preface.backbones.t5 import Backbone, EncoderStates
from preface.methods.base import Bank
from preface.tuning.optimizers import OptimizerName, clip_gradients, optimizer


class Step:
    """What is trained and what trains it: each call is one update of the bank's prompts, side by side.

    A call does not wait for a GPU: what is counted is counted on the CPU, and the losses are read when they are wanted.
    On a GPU, batches are padded to a few shapes, and the way through the model and back is launched as a whole
    (`captured`), but for dropout and checkpointing, which draw and compute anew. Nobody may then hold an
    injection of the bank's with its gradients: autograd would go on on the stream where that was made.
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
        self.leaves_encoder = bank.leaves_encoder
        self.clip, self.dropout, self.gradient_checkpointing = clip, dropout, gradient_checkpointing
        self.longest = max(map(len, targets), default=0)
        self.few_shapes = backbone.device.type == "cuda" and not dropout and not gradient_checkpointing
        stream = torch.cuda.Stream(backbone.device) if self.few_shapes else None
        self.record = lambda: cuda_graphs(stream)  # type: ignore[arg-type]
        self.captured: Captured | None = None
        self.members: list[int] = []

    def __call__(self, batches: Sequence[Sequence[int]], members: Sequence[int], rates: Sequence[float]) -> Tensor:
        """Update each of `members` on its own batch of inputs, at its own learning rate.

        Args:
            batches: which inputs, for each of the members.
            members: the prompts to be trained; the others stay as they are.
            rates: of all P prompts.

        Returns:
            Each member's mean loss before the update, in the order of `members`.
        """
        with self.backbone.training(self.dropout, self.gradient_checkpointing):
            losses, *gradients = self._outputs(members, self._arguments(batches, members))
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        clip_gradients(self.parameters, self.clip)
        trained = set(members)
        self.optimizer.step(
            self.backbone.send(torch.tensor([rate if member in trained else 0.0 for member, rate in enumerate(rates)]))
        )
        for parameter in self.parameters.values():
            parameter.grad = None
        assert losses is not None
        return losses.clone()

    def _outputs(self, members: Sequence[int], arguments: tuple[Tensor | None, ...]) -> Outputs:
        """What `_work` makes of its arguments."""
        if not self.few_shapes:
            return self._work(*arguments)  # type: ignore[arg-type]
        # who has stopped never comes back, so no shape of theirs does
        if self.captured is None or (self.members != list(members) and self.captured.record is not None):
            self.captured = Captured(self.record())
        self.members = list(members)
        return self.captured(self._work, *arguments)

    def forget(self) -> None:
        """Free the memory that recorded work holds; it is recorded anew."""
        self.captured = None

    def _arguments(self, batches: Sequence[Sequence[int]], members: Sequence[int]) -> tuple[Tensor | None, ...]:
        """What `_work` reads of a batch, on the model's device."""
        send = self.backbone.send
        chosen = [index for batch in batches for index in batch]
        rows = torch.tensor([place for place, batch in enumerate(batches) for _ in batch])  # [B]
        labels = labels_of([self.targets[index] for index in chosen])  # [B, S]
        shares = shares_of(labels, rows, len(batches))
        with torch.no_grad():
            if self.leaves_encoder and self.dropout == 0:
                states = self.inputs.states(chosen)
                inputs, mask = states.hidden, states.mask
            else:  # with dropout the encoder's states are drawn anew for each row of each step
                inputs, mask = self.inputs.padded(chosen)
        if self.few_shapes:
            more = padded_length(mask.shape[1]) - mask.shape[1]
            inputs = pad(inputs, (0, 0, 0, more) if inputs.dim() == 3 else (0, more))  # masked, whatever it is
            mask = pad(mask, (0, more))
            labels = send(pad(labels, (0, self.longest - labels.shape[1]), value=-100))
        owners = send(rows)
        all_alike = len({len(batch) for batch in batches}) == 1  # then each prompt's rows lie side by side
        every = list(members) == list(range(self.bank.size))
        return (
            inputs,
            mask,
            labels,
            owners,
            send(shares),
            None if all_alike else owners,
            None if every else send(torch.tensor(members)),
        )

    def _work(
        self,
        inputs: Tensor,
        mask: Tensor,
        labels: Tensor,
        owners: Tensor,
        shares: Tensor,
        rows: Tensor | None,
        members: Tensor | None,
    ) -> Outputs:
        """Through the model and back.

        Args:
            inputs: pieces `[B, T]`, or encoder states `[B, T, d]`.
            mask: `[B, T]`.
            labels: `[B, S]`, −100 for padding; on the CPU, but where shapes must not depend on what they are.
            owners: which of the members each row trains, `[B]`.
            shares: of each row in its member's loss, `[B]`.
            rows: `owners` where members have different numbers of rows.
            members: the prompts that are trained; None: all.

        Returns:
            Losses `[members]`, and the gradients of all parameters.
        """
        injection = self.bank.injection()
        if members is not None:
            injection = injection.members(members)
        size = injection.size
        if rows is not None:
            injection = injection.on(rows)
        encoded = inputs.dim() == 3
        states = EncoderStates(inputs, mask) if encoded else self.backbone.encode(inputs, mask, injection)
        pieces = self.backbone.losses(states, labels, injection, every_position=self.few_shapes)  # [B, S]
        losses = member_losses(pieces, owners, shares, size)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        return losses.detach(), *gradients


def labels_of(targets: Sequence[Sequence[int]]) -> Tensor:
    """Label pieces as `[B, S]`, padded with −100; on the CPU, where counting them keeps no device waiting."""
    return pad_sequence([torch.tensor(pieces) for pieces in targets], batch_first=True, padding_value=-100)


def shares_of(labels: Tensor, owners: Tensor, size: int) -> Tensor:
    """One over the label pieces of all rows of a row's owner, `[B]`; `labels` `[B, S]`, `owners` `[B]` of `size`."""
    counts = torch.zeros(size).index_add(0, owners, (labels != -100).sum(1).float()).clamp(min=1)
    return counts[owners].reciprocal()


def member_losses(pieces: Tensor, owners: Tensor, shares: Tensor, size: int) -> Tensor:
    """Each member's mean cross-entropy over its own label pieces, `[P]`.

    Args:
        pieces: the losses of label pieces, `[B, S]` (`Backbone.losses`).
        owners: whose row each is, `[B]`.
        shares: `[B]` (`shares_of`).
        size: P.
    """
    return pieces.new_zeros(size).index_add(0, owners, pieces.sum(1) * shares)

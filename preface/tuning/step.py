"""One update of a population of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from preface.backbones.base import Backbone, Context
from preface.backbones.batching import answers_of
from preface.backbones.captured import Captured, Outputs, cuda_graphs, padded_length
from preface.backbones.contexts import Inputs
from preface.labelling.free_text import Wanted
from preface.labelling.multi_label import MultiLabel, question_scores
from preface.methods.base import PromptModule
from preface.tasks.task import CUE
from preface.tuning.optimizers import OptimizerName, clip_gradients, optimizer
from preface.tuning.processes import Share


class Step:
    """What is trained and what trains it: each call is one update of the module's prompts, side by side.

    A call does not wait for a GPU: what is counted is counted on the CPU, and the losses are read when they are wanted.
    With `capture`, batches are padded to a few shapes, and the way through the model and back is launched as a whole
    (`captured`), but for dropout and checkpointing, which draw and compute anew. Nobody may then hold prompts of the
    module's with their gradients: autograd would go on on the stream where those were made.
    """

    def __init__(
        self,
        backbone: Backbone,
        module: PromptModule,
        inputs: Inputs,
        targets: Sequence[Sequence[int]],
        optimizer_name: OptimizerName = "adamw",
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        capture: bool = False,
        asked: Wanted | None = None,
        weights: Sequence[float] | None = None,
        of_task: Sequence[int] | None = None,
        share: Share | None = None,
    ) -> None:
        """
        Args:
            module: gives a prompt for each member; or T of them, side by side, for each of T tasks.
            targets: the pieces of each input's answer; of several labels, which answer to each is right.
            asked: what the answers are to; None: label words after the usual cue.
            weights: of each input in its batch's loss; None: all alike.
            of_task: the number of each input's task, where a member has a prompt for each; its loss is then the mean
                over tasks, of which each batch has rows. None: a member is one prompt.
            share: of the rows of every batch, where several processes work on it; `inputs` are its texts.
        """
        self.lead_in = backbone.lead_in(CUE) if asked is None else asked.lead_in
        trees = asked.trees() if isinstance(asked, MultiLabel) else []
        self.questions = [part.to(backbone.device) for part in trees]
        """About several labels a text, all of which every row answers."""
        self.backbone, self.module, self.inputs, self.targets = backbone, module, inputs, targets
        self.parameters: dict[str, Tensor] = dict(module.named_parameters())
        self.optimizer = optimizer(optimizer_name, self.parameters, weight_decay)
        self.leaves_reading = module.leaves_reading
        self.weights, self.of_task = weights, of_task
        self.share = share or Share()
        self.tasks = 1 if of_task is None else 1 + max(of_task)
        """T."""
        self.clip, self.dropout, self.gradient_checkpointing = clip, dropout, gradient_checkpointing
        self.size = len(next(iter(self.parameters.values())))
        """P."""
        self.longest = max(map(len, targets), default=0)
        # written for GPUs and never seen to work on one: so it is off by default
        self.few_shapes = capture and backbone.device.type == "cuda" and not dropout and not gradient_checkpointing
        stream = torch.cuda.Stream(backbone.device) if self.few_shapes else None
        self.record = lambda: cuda_graphs(stream)  # type: ignore[arg-type]
        self.captured: Captured | None = None
        self.members: list[int] = []

    def __call__(self, batches: Sequence[Sequence[int]], members: Sequence[int], rates: Sequence[float]) -> Tensor:
        """Update each of `members` on its own batch of inputs, at its own learning rate.

        Args:
            batches: which inputs, for each of the members.
            members: those to be trained; the others stay as they are.
            rates: of all P members.

        Returns:
            Each member's mean loss before the update, in the order of `members`.
        """
        with self.backbone.training(self.dropout, self.gradient_checkpointing):
            losses, *gradients = self._summed(self._outputs(members, self._arguments(batches, members)))
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

    def _summed(self, outputs: Outputs) -> Outputs:
        """Losses and gradients over the rows of all processes, in one exchange."""
        if self.share.is_all:
            return outputs
        there = [tensor for tensor in outputs if tensor is not None]
        summed = self.share.processes.total(torch.cat([tensor.flatten() for tensor in there]))
        parts = iter(summed.split([tensor.numel() for tensor in there]))
        return tuple(None if tensor is None else next(parts).view_as(tensor) for tensor in outputs)

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
        owners = torch.tensor([place for place, batch in enumerate(batches) for _ in batch])  # [B]
        rows = owners  # the prompt of each
        if self.of_task is not None:
            rows = owners * self.tasks + torch.tensor([self.of_task[index] for index in chosen])
        targets = [self.targets[index] for index in chosen]
        # answers to questions are read off their trees
        answers, labels = (None, torch.tensor(targets)) if self.questions else answers_of(targets, self.lead_in)
        weights = None if self.weights is None else torch.tensor([self.weights[index] for index in chosen])
        shares = shares_of(labels, rows, len(batches) * self.tasks, weights) / self.tasks
        if not self.share.is_all:
            if self.share.processes.in_step:
                self.inputs.keep(chosen)
            own, chosen = self.share.of(chosen)
            if not own:  # the others wait for this process: it takes any text, which counts nothing
                own, chosen, shares = [0], [0], torch.zeros_like(shares)
            owners, rows, labels, shares = owners[own], rows[own], labels[own], shares[own]
            answers = None if answers is None else answers[own]
        with torch.no_grad():
            if self.leaves_reading and self.dropout == 0:
                context = self.inputs.read(chosen)
                inputs, mask = context.states, context.mask
            else:  # with dropout every text is read anew in each step
                inputs, mask = self.inputs.padded(chosen)
        if self.few_shapes:
            more = padded_length(mask.shape[1]) - mask.shape[1]
            inputs = pad(inputs, (0, 0, 0, more) if inputs.dim() == 3 else (0, more))  # masked, whatever it is
            mask = pad(mask, (0, more))
            if answers is not None:
                more = self.longest + len(self.lead_in) - 1 - labels.shape[1]
                labels, answers = pad(labels, (0, more), value=-100), pad(answers, (0, more))
        if self.few_shapes or answers is None:
            labels = send(labels)
        # then each prompt's rows lie side by side
        all_alike = self.of_task is None and len(set(owners.bincount(minlength=len(batches)).tolist())) == 1
        every = list(members) == list(range(self.size))
        prompts = [member * self.tasks + number for member in members for number in range(self.tasks)]
        return (
            inputs,
            mask,
            None if answers is None else send(answers),
            labels,
            send(owners),
            send(shares),
            None if all_alike else send(rows),
            None if every else send(torch.tensor(prompts)),
        )

    def _work(
        self,
        inputs: Tensor,
        mask: Tensor,
        answers: Tensor | None,
        labels: Tensor,
        owners: Tensor,
        shares: Tensor,
        rows: Tensor | None,
        trained: Tensor | None,
    ) -> Outputs:
        """Through the model and back.

        Args:
            inputs: pieces `[B, T]`, or contexts `[B, T, w]`.
            mask: `[B, T]`.
            answers: what the answers read, `[B, S]`; None: questions are answered.
            labels: `[B, S]`, −100 for padding; on the CPU, but where shapes must not depend on what they are. Of
                questions `[B, C]`, 0 for yes and 1 for no.
            owners: which of the members each row trains, `[B]`.
            shares: of each row in its member's loss, `[B]`.
            rows: the prompt of each, `[B]`; None: those of each lie side by side, as many of one as of another.
            trained: the prompts that are trained; None: all.

        Returns:
            Losses `[members]`, and the gradients of all parameters.
        """
        prompts = self.module()
        if trained is not None:
            prompts = prompts.select(trained)
        been_read = inputs.dim() == 3
        context = Context(inputs, mask) if been_read else self.backbone.read(inputs, mask, prompts, rows)
        if answers is None:
            which = torch.zeros(len(owners), dtype=torch.long, device=owners.device)
            scores = question_scores(self.backbone, context, self.questions, which, prompts, rows)  # [B, C, 2]
            pieces = cross_entropy(scores.mT, labels, reduction="none")  # [B, C]
        else:
            pieces = self.backbone.losses(context, answers, labels, prompts, rows, self.few_shapes)  # [B, S]
        losses = member_losses(pieces, owners, shares, prompts.size // self.tasks)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        return losses.detach(), *gradients


def shares_of(labels: Tensor, owners: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """What a label piece of each row counts in its owner's mean, `[B]`.

    Args:
        labels: `[B, S]`, −100 where there is none.
        owners: whose row each is, `[B]`, of `size`.
        weights: of each row, `[B]`; None: 1.
    """
    weights = torch.ones(len(labels)) if weights is None else weights
    totals = torch.zeros(size).index_add(0, owners, (labels != -100).sum(1) * weights)
    return weights / totals.clamp(min=1e-9)[owners]


def member_losses(pieces: Tensor, owners: Tensor, shares: Tensor, size: int) -> Tensor:
    """Each member's mean cross-entropy over its own label pieces, `[P]`.

    Args:
        pieces: the losses of label pieces, `[B, S]` (`Backbone.losses`).
        owners: whose row each is, `[B]`.
        shares: `[B]` (`shares_of`).
        size: P.
    """
    return pieces.new_zeros(size).index_add(0, owners, pieces.sum(1) * shares)

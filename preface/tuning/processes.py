"""Several processes that train the same prompts together, as `accelerate launch` and `torchrun` start them.

Prompts are small, so every process holds all of them, and takes the same decisions. What is shared out is the work of
the steps: either the rows of each batch, whose gradients are summed, or the members of a population, which the
processes hand each other before an evaluation and a checkpoint alone. Each evaluates its own development rows; where
answers are written, its own prompts on all of them. Where no device holds the backbone, rows are shared out and its
weights too (`backbones.sharded`); then all processes go through the model in step, and each evaluates all rows. Every
way ends as one process does, up to the order in which numbers are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.backbones.load import dtype_name, dtype_named
from preface.errors import UserError
from preface.labelling.fit import loaded
from preface.records.lock import locked
from preface.terminal.launcher import launched
from preface.terminal.progress import console

if TYPE_CHECKING:
    from accelerate import Accelerator

Spread = Literal["auto", "rows", "members", "weights"]
Item = TypeVar("Item")


class Processes:
    """Those that train together with this one. What each has of some things is every n-th: the first of n processes 0,
    n, 2n, …"""

    def __init__(self, accelerator: Accelerator | None = None, spread: Spread = "auto") -> None:
        """`accelerator`: None: there are no others."""
        self.accelerator, self.spread = accelerator, spread
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.index = 0 if accelerator is None else accelerator.process_index
        self.is_main = self.index == 0
        """Whether it is this one that writes."""

    @classmethod
    def here(cls, device: str, spread: str | None) -> Processes:
        """Those that a launcher has started; all but the first are silent from now on.

        `spread`: None: alone, whoever else was started. Raises UserError for another than there is, or where there is
        nobody to share with.
        """
        if spread is None:
            return cls()
        if spread not in get_args(Spread):
            raise UserError(f"spread {spread}: one of {', '.join(get_args(Spread))}")
        if not launched():
            if spread != "auto":
                raise UserError(
                    f"spread {spread}: needs several processes; `torchrun --nproc-per-node 2 -m preface train …`"
                )
            return cls()
        from accelerate import Accelerator

        found = cls(Accelerator(cpu=device == "cpu"), cast(Spread, spread))
        console.quiet = not found.is_main
        return found

    def load(self, backbone: Backbone | str | Path | None, dtype: str, device: str) -> Backbone:
        """A backbone (`labelling.fit.loaded`) on this process's own device, for a user's word for all; or its part."""
        if self.accelerator is None:
            return loaded(backbone, dtype, device)
        own = self.accelerator.device
        if isinstance(backbone, Backbone):
            if self.in_step or backbone.device != own:
                raise UserError(f"spread {self.spread}: {backbone.name} is loaded already; give its name instead")
            return loaded(backbone, dtype)
        dtype = self.agreed(dtype_name(dtype_named(dtype, own)))
        if not self.in_step:
            return loaded(backbone, dtype, str(own))
        from preface.backbones.sharded import shard

        whole = loaded(backbone, dtype, "cpu")  # no other device need hold all of it
        shard(whole, own, self.count)
        return whole

    @property
    def in_step(self) -> bool:
        """Whether no process can go through the model without the others."""
        return self.spread == "weights"

    def by_members(self, members: int) -> bool:
        """Whether a population of so many members is shared out by them, and not by rows."""
        return self.spread == "members" or (self.spread == "auto" and members % self.count == 0)

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of some things that are this process's."""
        return items[self.index :: self.count]

    def evaluated(self, rows: Sequence[Item]) -> Sequence[Item]:
        """Those that this process evaluates."""
        return rows if self.in_step else self.mine(rows)

    def read_alike(self, inputs: Inputs) -> Inputs:
        """The same inputs; where processes go in step, with the same texts kept by all, or none."""
        if self.in_step:
            kept = inputs.kept
            can = kept is not None and bool(kept.has_room.all())
            if self.total(torch.tensor(int(can))) < self.count or kept is None:
                inputs.kept = None
            else:
                kept.known &= self.total(kept.known.long()) == self.count
        return inputs

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors that the processes have."""
        if self.accelerator is None:
            return tensor
        summed: Tensor = self.accelerator.reduce(tensor.to(self.accelerator.device), "sum")
        return summed.to(tensor.device)

    def whole(self, own: Tensor, size: int) -> Tensor:
        """`[size, …]`, of which each process has its own rows; in step all have all."""
        if self.accelerator is None or self.in_step:
            return own
        every = own.new_zeros(size, *own.shape[1:])
        every[self.index :: self.count] = own
        return self.total(every)

    @torch.no_grad()
    def hand_over(self, tensors: Mapping[str, Tensor]) -> None:
        """Make tensors `[P, …]` whole, of which each process knows its own rows; of a number, the largest is right."""
        for tensor in tensors.values() if self.accelerator is not None else ():
            if tensor.dim():
                tensor.copy_(self.whole(tensor[self.index :: self.count], len(tensor)))
            else:
                tensor.copy_(self.total(torch.eye(self.count)[self.index] * tensor.cpu()).max())

    def gathered(self, own: Sequence[Item]) -> list[Item]:
        """All things, of which each process has made its own; in step all have all."""
        if self.accelerator is None or self.in_step:
            return list(own)
        from accelerate.utils import gather_object

        each: list[list[Item]] = gather_object([list(own)])
        return [items[at] for at in range(len(each[0])) for items in each if at < len(items)]

    def agreed(self, value: Item) -> Item:
        """What the first process says."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        said: list[Item] = broadcast_object_list([value])
        return said[0]

    def wait(self) -> None:
        """For the others."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def locked(self, folder: Path) -> AbstractContextManager[None]:
        """`locked`, for the process that writes."""
        return locked(folder) if self.is_main else nullcontext()


class Share:
    """What this process has of the rows of every batch; alone, all."""

    def __init__(self, processes: Processes | None = None, keep: bool = False) -> None:
        """`keep`: what is read is kept, so a text is always the same process's, unless all must read in step."""
        self.processes = processes or Processes()
        self.by_text = keep and not self.processes.in_step

    @property
    def is_all(self) -> bool:
        return self.processes.count == 1

    def texts(self, texts: Sequence[Item]) -> Sequence[Item]:
        """The training texts that this process may be asked to read. Raises UserError where there is none for it."""
        own = self.processes.mine(texts) if self.by_text else texts
        if not own:
            count = self.processes.count
            raise UserError(f"spread rows: {len(texts)} rows cannot be shared by {count} processes; start fewer")
        return own

    def of(self, batch: Sequence[int]) -> tuple[list[int], list[int]]:
        """The places in a batch of texts that are this process's, and where each of these lies in `texts`."""
        if not self.by_text:
            places = list(self.processes.mine(range(len(batch))))
            return places, [batch[place] for place in places]
        index, count = self.processes.index, self.processes.count
        places = [place for place, text in enumerate(batch) if text % count == index]
        return places, [batch[place] // count for place in places]

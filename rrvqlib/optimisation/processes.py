"""The processes of one run, started by torchrun or one alone: devices, averages, agreement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from rrvqlib.numerics import choose_device
from rrvqlib.settings.run import MachineSettings


class Processes:
    """This process and its siblings, of which torchrun's RANK, LOCAL_RANK and WORLD_SIZE tell.

    Nothing else in the environment changes a run.

    Args:
        machine: its `device` decides where tensors live.

    Raises:
        UserError: a GPU was asked for, and there is none.
    """

    def __init__(self, machine: MachineSettings):
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = choose_device(machine.device)
        use_cuda = self.device.type == "cuda"
        if use_cuda:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if use_cuda:
            torch.cuda.set_device(self.device)
        if self.count > 1 and not dist.is_initialized():
            # One process scores while the others wait, longer than the usual half hour. Numbers
            # of the host travel by gloo, so that to agree on them needs no wait for the GPU.
            backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
            dist.init_process_group(backend, timeout=timedelta(hours=12))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes, the same in all of them."""
        if self.count == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.count

    def agree(self, mine: float, rank0s: float) -> tuple[float, float]:
        """The largest of `mine` over the processes, and `rank0s` of the first."""
        if self.count == 1:
            return mine, rank0s
        both = torch.tensor([mine, rank0s if self.is_main else float("-inf")], dtype=torch.float64)
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return both[0].item(), both[1].item()

    def wait_for_all(self) -> None:
        """Return when all processes are here."""
        self.agree(0.0, 0.0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process does what is inside before the others do it."""
        if not self.is_main:
            self.wait_for_all()
        yield
        if self.is_main:
            self.wait_for_all()

    def leave(self) -> None:
        """Part from the others, at the end of a run."""
        if dist.is_initialized():
            dist.destroy_process_group()

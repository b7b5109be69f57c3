"""Where training images lie: all of them on the device, or on the host, which sends a step's."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rrvqlib.optimisation.order import ImageOrder

# Of a GPU's free memory, what images may take; the rest is for activations.
SHARE = 0.5
# The loop runs two steps ahead of the device at most: a buffer is not written while it is read.
BUFFERS = 3

Batch = tuple[Tensor, Tensor | None]


class Feed(Protocol):
    """Gives a process its images of a step."""

    device: torch.device

    def turn_to(self, step: int) -> None:
        """Let `batch` be that of a step; the host does not wait for the device."""
        ...

    def batch(self) -> Batch:
        """This process's uint8 images (b, c, S, S) and int64 labels (b,), on the device.

        What it does on the device can be recorded and replayed.
        """
        ...


class OnDevice:
    """All images are on the device: a step's are looked up there.

    Args:
        images: uint8 (N, c, S, S).
        labels: int64 (N,), or None.
        order: on the same device.
        rank, processes: which share of a step's images is this process's.
    """

    def __init__(
        self, images: Tensor, labels: Tensor | None, order: ImageOrder, rank: int, processes: int
    ):
        self.images, self.labels, self.order = images, labels, order
        self.rank, self.processes = rank, processes
        self.device = images.device

    def turn_to(self, step: int) -> None:
        """See `Feed`."""
        self.order.turn_to(step)

    def batch(self) -> Batch:
        """See `Feed`."""
        indices = self.order.indices().chunk(self.processes)[self.rank]
        return self.images[indices], None if self.labels is None else self.labels[indices]


class FromHost:
    """Images stay where they are, in memory or in a mapped file; a step's are copied over.

    Args:
        images: uint8 (N, c, S, S), on the host.
        labels: int64 (N,), or None.
        order: on the host.
        rank, processes: which share of a step's images is this process's.
        device: of the model.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        order: ImageOrder,
        rank: int,
        processes: int,
        device: torch.device,
    ):
        self.images, self.labels, self.order = images, labels, order
        self.rank, self.processes, self.device = rank, processes, device
        count = len(self._share())
        pinned = device.type == "cuda"
        shape = (count, *images.shape[1:])
        self.sent = [
            torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(BUFFERS)
        ]
        self.sent_labels = [
            torch.empty(count, dtype=torch.int64, pin_memory=pinned) for _ in range(BUFFERS)
        ]
        self.here = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.labels_here = torch.zeros(count, dtype=torch.int64, device=device)
        self.turn_to(0)  # a step may be recorded before the first turn

    def _share(self) -> Tensor:
        return self.order.indices().chunk(self.processes)[self.rank]

    def turn_to(self, step: int) -> None:
        """See `Feed`."""
        self.order.turn_to(step)
        indices, turn = self._share(), step % BUFFERS
        torch.index_select(self.images, 0, indices, out=self.sent[turn])
        self.here.copy_(self.sent[turn], non_blocking=True)
        if self.labels is not None:
            torch.index_select(self.labels, 0, indices, out=self.sent_labels[turn])
            self.labels_here.copy_(self.sent_labels[turn], non_blocking=True)

    def batch(self) -> Batch:
        """See `Feed`."""
        return self.here, None if self.labels is None else self.labels_here


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether all training images may lie on the device: not on a GPU with little memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= SHARE * free


def feed(
    images: Tensor,
    labels: Tensor | None,
    batch_size: int,
    seed: int,
    rank: int,
    processes: int,
    device: torch.device,
) -> Feed:
    """The feed of a run: from where its images are.

    Args:
        images: all training images, uint8 (N, c, S, S), on the device or on the host.
        labels: int64 (N,), their classes, in the same place; None where the model has none.
        batch_size: of all processes together.
        seed: of the run.
        rank, processes: which share of a step's images is this process's.
        device: of the model.
    """
    order = ImageOrder(len(images), batch_size, seed, images.device)
    if images.device == device:
        return OnDevice(images, labels, order, rank, processes)
    return FromHost(images, labels, order, rank, processes, device)

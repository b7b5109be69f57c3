"""One optimiser step: a function of tensors on the device, so that it can be recorded whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rrvqlib.latents.codebook import MAX_LOG_VARIANCE
from rrvqlib.models.base import VAE
from rrvqlib.models.batched_weights import BatchedWeights
from rrvqlib.numerics import half_precision, total
from rrvqlib.objectives.elbo import bits_per_dim, training_loss
from rrvqlib.optimisation.adamax import OPTIMIZERS
from rrvqlib.optimisation.dials import Dials, Statistics
from rrvqlib.optimisation.feed import feed
from rrvqlib.optimisation.flat_weights import FlatWeights
from rrvqlib.settings.run import MachineSettings, RunSettings


def layout(machine: MachineSettings) -> torch.memory_format:
    """How images and convolutions lie in memory."""
    return torch.channels_last if machine.channels_last else torch.contiguous_format


class Step:
    """A step of a model on its training images.

    Args:
        model: learns; its parameters become views of one vector.
        images: all training images, uint8 (N, c, S, S), on the model's device or on the host.
        labels: int64 (N,), their classes, there too; None where the model has none.
        settings: of the run.
        rank, processes: which share of a step's images is this process's.
        bf16: whether networks compute in bfloat16 (autocast).
        batch_weights: whether all layers' weights are prepared at once; results differ by rounding.
            None for what is faster: on a GPU, unless layers are compiled.
        all_mean: average of a tensor over the processes.
    """

    def __init__(
        self,
        model: VAE,
        images: Tensor,
        settings: RunSettings,
        rank: int = 0,
        processes: int = 1,
        *,
        labels: Tensor | None = None,
        bf16: bool = False,
        batch_weights: bool | None = None,
        all_mean: Callable[[Tensor], Tensor] = lambda values: values,
    ):
        self.settings, self.parts = settings.optimisation, settings.machine.grad_accumulation
        self.all_mean, self.bf16 = all_mean, bf16
        self.device = next(model.parameters()).device
        self.layout = layout(settings.machine)
        self.model = model
        self.average = FlatWeights(deepcopy(model)) if self.settings.ema_decay else None
        self.weights = FlatWeights(model)
        optimizer = OPTIMIZERS[self.settings.optimizer]
        self.optimizer = optimizer(self.weights.values, self.weights.sizes)
        batch_size, seed = self.settings.batch_size, self.settings.seed
        self.feed = feed(images, labels, batch_size, seed, rank, processes, self.device)
        if batch_weights is None:
            batch_weights = self.device.type == "cuda" and not settings.machine.compile
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.batched = BatchedWeights(model, dtype).in_use if batch_weights else nullcontext
        self.dials, self.statistics = Dials(self.device), Statistics(self.device)
        self.buffers = list(model.buffers())
        self.log_variances: list[Tensor] = [
            parameter
            for latent in model.latents
            for parameter in latent.raw_log_variances()
            if parameter.requires_grad
        ]
        self.shared = None
        if processes > 1:
            self.shared = DistributedDataParallel(model, gradient_as_bucket_view=True)

    @property
    def evaluated(self) -> VAE:
        """The model that is scored and kept, the average of the weights if there is one."""
        return self.average.model if self.average else self.model

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        own = [self.weights.values, *self.buffers, *self.optimizer.tensors()]
        if self.average:
            own += [self.average.values, *self.average.model.buffers()]
        return [*own, *self.statistics.tensors()]

    def __call__(self) -> None:
        """One step, or a skipped one, which changes nothing but what `statistics` counts."""
        # The forward pass moves averages, and codes that nobody uses.
        moving = [*self.buffers, self.weights.values]
        before = [tensor.clone() for tensor in moving]
        self.weights.clear()
        loss, largest_kl = self.backward()
        norm = self.weights.gather(self.settings.max_grad_norm or math.inf)
        loss, norm, largest_kl = self.all_mean(torch.stack([loss, norm, largest_kl])).unbind()
        # One bad batch can undo hours at 32 layers.
        wanted = self.statistics.trusts(loss, norm, self.settings.grad_skip_factor)
        self.optimizer.step(self.weights.gradient, self.dials.rates, wanted)
        self.project()
        for tensor, old in zip(moving, before, strict=True):
            tensor.copy_(torch.where(wanted, tensor, old))
        self.move_average(wanted)
        self.statistics.note(loss, norm, largest_kl, wanted)

    def micro_batches(self) -> list[tuple[Tensor, Tensor | None]]:
        """This process's uint8 images of the step and labels, in `grad_accumulation` parts."""
        images, labels = self.feed.batch()
        shares = [None] * self.parts if labels is None else labels.chunk(self.parts)
        laid = (part.contiguous(memory_format=self.layout) for part in images.chunk(self.parts))
        return list(zip(laid, shares, strict=True))

    def backward(self) -> tuple[Tensor, Tensor]:
        """Forward and backward; the loss in bits per dim, and the largest KL of a layer in nats.

        The latter of the mean image of each micro-batch, and averaged over these.
        """
        settings, parts = self.settings, self.micro_batches()
        losses, kls = [], []
        for number, (images, labels) in enumerate(parts, start=1):
            is_last = number == len(parts)
            with nullcontext() if is_last or not self.shared else self.shared.no_sync():
                precision = half_precision(self.device) if self.bf16 else nullcontext()
                with precision, self.batched():
                    terms = (self.shared or self.model)(images, self.dials.temperature, labels)
                nats = training_loss(
                    terms,
                    self.dials.kl_weight,
                    settings.free_nats,
                    settings.free_nats_group,
                    self.all_mean,
                )
                loss = bits_per_dim(-nats, self.model.settings.dims) / len(parts)
                loss.backward()
            losses.append(loss.detach())
            kls.append(terms.kl.detach().mean(0).max() / len(parts))
        return total(losses), total(kls)

    @torch.no_grad()
    def project(self) -> None:
        """Bring log-variances back to the edge of their range, where a gradient can move them."""
        if self.log_variances:
            torch._foreach_clamp_min_(self.log_variances, -MAX_LOG_VARIANCE)
            torch._foreach_clamp_max_(self.log_variances, MAX_LOG_VARIANCE)

    @torch.no_grad()
    def move_average(self, wanted: Tensor) -> None:
        """Move the average of the weights towards them; young averages move faster."""
        if self.average is None:
            return
        count = self.optimizer.count - 1  # of the steps before this one, if it is not skipped
        decay = ((1 + count) / (10 + count)).clamp(max=self.settings.ema_decay)
        weight = torch.where(count == 0, 1.0, 1 - decay)
        weight = torch.where(wanted, weight, 0.0).to(self.weights.values.dtype)
        self.average.values.lerp_(self.weights.values, weight)
        for mine, theirs in zip(self.average.model.buffers(), self.buffers, strict=True):
            mine.copy_(theirs)

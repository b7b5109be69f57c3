"""What a run costs: parameters, FLOPs, memory, and time on this machine (`--dry-run`)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rrvqlib.models.base import VAE
from rrvqlib.models.from_settings import build
from rrvqlib.numerics import choose_device, device_name, half_precision, true_float32, uses_bf16
from rrvqlib.objectives.elbo import training_loss
from rrvqlib.runs.named import NamedRun
from rrvqlib.settings.latents import CodebookSettings
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.run import RunSettings
from rrvqlib.words import number_of

# Per parameter, in float32, when a step's gradients are there: the weight and its copy from before
# the step, the gradient that torch makes and its place in the flat one, two states of AdaMax, and
# the average.
BYTES_PER_PARAMETER = 28


@dataclass(frozen=True)
class Cost:
    """Of one run. FLOPs count a multiplication and an addition as two, forward and backward."""

    parameters: int
    flops_per_image: float
    memory_bytes: float
    seconds_per_image: float
    device: str
    settings: RunSettings

    @property
    def images(self) -> int:
        """Training images that the run sees; by the clock, those that its time buys here."""
        schedule = self.settings.schedule
        if schedule.seconds:
            return int(schedule.seconds / self.seconds_per_image)
        return schedule.steps * self.settings.optimisation.batch_size

    @property
    def hours(self) -> float:
        """Of training on this machine."""
        return self.seconds_per_image * self.images / 3600


def estimate(settings: RunSettings) -> Cost:
    """Count a training pass without computing it, and time a smaller model's.

    The time is that of a model with one layer on each grid, scaled by FLOPs: 32 layers would take
    a CPU a minute. Optimiser steps and evaluations come on top, about a tenth; on a GPU recording
    the step saves more.

    Raises:
        UserError: the device is not there.
    """
    device = choose_device(settings.machine.device)
    parts = settings.machine.grad_accumulation
    micro_batch = max(1, settings.optimisation.batch_size // parts)
    small = with_layers(settings.model, 1)
    of_small = counted(small)
    whole = extrapolated(settings.model, of_small)
    # A part of what is kept for the backward pass, such as normed weights, is the same for any n.
    activations = whole.saved_one + (whole.saved_two - whole.saved_one) * (micro_batch - 1)
    return Cost(
        whole.parameters,
        whole.flops,
        whole.parameters * BYTES_PER_PARAMETER + activations,
        seconds_per_image(small, settings.machine.precision, device, micro_batch)
        * (whole.flops / of_small.flops),
        device_name(device),
        settings,
    )


class Counts(NamedTuple):
    """Of a model.

    Its parameters; FLOPs of an image, forward and backward; bytes that a forward pass of one image,
    and of two, keeps for the backward pass.
    """

    parameters: int
    flops: int
    saved_one: int
    saved_two: int


def with_layers(settings: ModelSettings, times: int | dict[int, int]) -> ModelSettings:
    """The same hierarchy with so many layers on each grid; other models as they are.

    Args:
        settings: of the whole.
        times: layers on every grid, or side of a grid -> layers on it.
    """
    latent = settings.latent
    by_layer = isinstance(latent, CodebookSettings) and len(latent.codebook_size) > 1
    if settings.kind != "hierarchy" or by_layer:
        return settings
    sides = list(dict.fromkeys(settings.pyramid))
    if isinstance(times, int):
        times = dict.fromkeys(sides, times)
    return replace(settings, pyramid=tuple(s for s in sides for _ in range(times[s])))


def extrapolated(settings: ModelSettings, once: Counts) -> Counts:
    """The counts of a hierarchy, linear in the layers on each grid.

    Args:
        settings: of the whole.
        once: the counts of one layer on each grid.
    """
    layers = Counter(settings.pyramid)
    if with_layers(settings, dict(layers)) != settings or max(layers.values()) == 1:
        return once if with_layers(settings, 1) == settings else counted(settings)
    total = np.array(once)
    if len(set(layers.values())) == 1:  # one more on all grids at once
        more = {tuple(layers): np.array(counted(with_layers(settings, 2))) - once}
    else:
        more = {
            (side,): np.array(counted(with_layers(settings, dict.fromkeys(layers, 1) | {side: 2})))
            - once
            for side, times in layers.items()
            if times > 1
        }
    for sides, step in more.items():
        total += (layers[sides[0]] - 1) * step
    return Counts(*map(int, total))


def counted(settings: ModelSettings) -> Counts:
    """Count on tensors that have shapes but no contents: nothing is computed."""
    model = build(settings).to("meta")
    losses: list[torch.Tensor] = []
    with CountFlops() as count:
        one = saved_bytes(model, lambda: losses.append(forward(model, 1, "meta")))
        losses[0].backward()
    two = saved_bytes(model, lambda: forward(model, 2, "meta"))
    return Counts(sum(p.numel() for p in model.parameters()), count.total, one, two)


def forward(model: VAE, n: int, device: torch.device | str) -> torch.Tensor:
    """The loss of n images without contents that matter."""
    side = model.settings.image_size
    images = torch.zeros(
        n, model.settings.image_channels, side, side, dtype=torch.uint8, device=device
    )
    labels = None
    if model.settings.classes:
        labels = torch.zeros(n, dtype=torch.int64, device=device)
    return training_loss(model(images, torch.ones((), device=device), labels))


class CountFlops(TorchDispatchMode):
    """Adds up what torch's counter says of each operation inside; it tracks no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@true_float32()
def seconds_per_image(
    settings: ModelSettings, precision: str, device: torch.device, micro_batch: int
) -> float:
    """Of a training pass on a device."""
    model = build(settings).to(device)
    bf16, on_gpu = uses_bf16(precision, device), device.type == "cuda"

    def one_pass(n: int) -> float:
        def both_ways() -> None:
            with half_precision(device) if bf16 else nullcontext():
                loss = forward(model, n, device)
            loss.backward()

        return timed(both_ways, use_cuda=on_gpu)

    n = micro_batch if on_gpu else min(micro_batch, 2)
    seconds = one_pass(n)
    if on_gpu or seconds < 1:  # else what the first pass sets up does not matter
        if not on_gpu:  # a CPU takes less for an image of many: as many as fit into a second or so
            n = min(micro_batch, int(2 / one_pass(n)) + 1)
        seconds = min(one_pass(n) for _ in range(2))
    return seconds / n


def saved_bytes(model: torch.nn.Module, forward: Callable[[], object]) -> int:
    """Memory that a forward pass keeps for the backward pass, beside the parameters.

    Several operations may keep one tensor, or views of it: its storage counts once.
    """
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # or the identity of a freed storage would come again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(size for storage, size in found.items() if storage not in own)


def timed(call: Callable[[], None], *, use_cuda: bool) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    if use_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def show(name: str, run: NamedRun, cost: Cost) -> None:
    """Print a cost for people."""
    model, schedule, dataset = (
        cost.settings.model,
        cost.settings.schedule,
        cost.settings.data.dataset,
    )
    ceiling = ""
    if model.rate_ceiling is not None:
        ceiling = f", at most {model.rate_ceiling:.2f} bits/dim"
    total = cost.flops_per_image * cost.images
    rows = {
        "run": f"{name} ({run.cost}; {run.expect})",
        "model": f"{model.kind} of {model.latent.kind} latents, L={model.layers}, {model.channels}"
        " channels",
        "latents": f"{model.positions} per image{ceiling}",
        "parameters": f"{cost.parameters / 1e6:.2f} M",
        "FLOPs": f"{cost.flops_per_image / 1e9:.2f} G per training image,"
        f" {scientific(total)} in all",
        "memory": f"about {cost.memory_bytes / 2**30:.1f} GiB",
        "data": f"{dataset}, {number_of(cost.images, 'image')} in"
        f" {number_of(schedule.steps, 'step')}",
        "time here": f"about {duration(cost.hours)} on {cost.device}"
        f" ({1 / cost.seconds_per_image:.3g} images/s)",
    }
    if schedule.seconds:
        rows["data"] = f"{dataset}, about {number_of(cost.images, 'image')} by the clock"
        rows["time here"] = (
            f"{schedule.seconds:g} seconds on {cost.device}"
            f" ({1 / cost.seconds_per_image:.3g} images/s; set-up and scoring come off)"
        )
    for label, text in rows.items():
        print(f"{label:<12} {text}")


def scientific(flops: float) -> str:
    """1.2e18 -> "1.2 EFLOP"."""
    for factor, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T")):
        if flops >= factor:
            return f"{flops / factor:.1f} {unit}FLOP"
    return f"{flops / 1e9:.1f} GFLOP"


def duration(hours: float) -> str:
    """0.5 -> "30 minutes"."""
    if hours < 1.5:
        return number_of(max(1, math.ceil(hours * 60)), "minute")
    if hours < 48:
        return f"{hours:.0f} hours"
    return f"{hours / 24:.0f} days"

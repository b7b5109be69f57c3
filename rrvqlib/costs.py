"""What a run costs: parameters, FLOPs, memory, and time on this machine (`--dry-run`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from rrvqlib.configs import NamedRun, RunConfig
from rrvqlib.elbo import training_loss
from rrvqlib.errors import UserError
from rrvqlib.models import build

# Per parameter: weight, gradient, two AdaMax states and the average, in float32.
BYTES_PER_PARAMETER = 20


@dataclass(frozen=True)
class Cost:
    """Of one run. FLOPs count a multiplication and an addition as two, forward and backward."""

    parameters: int
    flops_per_image: float
    memory_bytes: float
    seconds_per_image: float
    device: str
    config: RunConfig

    @property
    def images(self) -> int:
        return self.config.steps * self.config.batch_size

    @property
    def hours(self) -> float:
        return self.seconds_per_image * self.images / 3600


def estimate(config: RunConfig) -> Cost:
    """Build the model and time a few training passes on random images.

    Optimiser steps and evaluations come on top, about a tenth.

    Raises:
        UserError: the device is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    use_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if use_cuda else "cpu")
    model = build(config.model_config).to(device)
    micro_batch = max(1, config.batch_size // config.grad_accumulation)
    n = micro_batch if use_cuda else min(micro_batch, 8)
    side = config.image_size
    images = torch.randint(0, 256, (max(n, 2), 3, side, side), dtype=torch.uint8, device=device)
    temperature = torch.ones((), device=device)

    def forward(count: int) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return training_loss(model(images[:count], temperature))

    def one_pass() -> None:
        forward(n).backward()

    with FlopCounterMode(display=False) as flops:
        one_pass()  # warms up, too
    parameters = sum(p.numel() for p in model.parameters())
    # A part of what is kept for the backward pass, such as normed weights, is the same for any n.
    one, two = saved_bytes(model, lambda: forward(1)), saved_bytes(model, lambda: forward(2))
    activations = one + (two - one) * (micro_batch - 1)
    seconds = min(timed(one_pass, use_cuda) for _ in range(2)) / n
    return Cost(
        parameters,
        flops.get_total_flops() / n,
        parameters * BYTES_PER_PARAMETER + activations,
        seconds,
        torch.cuda.get_device_name() if use_cuda else f"CPU, {torch.get_num_threads()} threads",
        config,
    )


def saved_bytes(model: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Memory that a forward pass keeps for the backward pass, beside the parameters.

    Several operations may keep one tensor, or views of it: its storage counts once.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # or the address of a freed tensor would come again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(size for address, size in found.items() if address not in own)


def timed(call: Callable[[], None], use_cuda: bool) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    if use_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def show(name: str, run: NamedRun, cost: Cost) -> None:
    """Print a cost for people."""
    config = cost.config
    ceiling = ""
    if config.model != "spatial-vae" and config.latent == "codebook":
        ceiling = f", at most {config.rate_ceiling:.2f} bits/dim"
    total = cost.flops_per_image * cost.images
    rows = {
        "run": f"{name} ({run.cost}; {run.expect})",
        "model": f"{config.model}, L={config.layers}, {config.channels} channels",
        "latents": f"{config.latent_variables} per image{ceiling}",
        "parameters": f"{cost.parameters / 1e6:.2f} M",
        "FLOPs": f"{cost.flops_per_image / 1e9:.2f} G per training image,"
        f" {scientific(total)} in all",
        "memory": f"about {cost.memory_bytes / 2**30:.1f} GiB",
        "data": f"{config.dataset}, {cost.images:,} images in {config.steps:,} steps",
        "time here": f"about {duration(cost.hours)} on {cost.device}"
        f" ({1 / cost.seconds_per_image:.3g} images/s)",
    }
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
        return f"{max(1, math.ceil(hours * 60))} minutes"
    if hours < 48:
        return f"{hours:.0f} hours"
    return f"{hours / 24:.0f} days"

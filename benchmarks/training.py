"""A training step of a narrow hierarchy: time per image, and peak memory."""

from __future__ import annotations

import resource
import sys

import torch

from benchmarks.timing import Timing, in_turns
from rrvqlib.configs import RunConfig, parse_sides
from rrvqlib.elbo import training_loss
from rrvqlib.models import build
from rrvqlib.training import make_optimizer

BATCH = 16
CONFIG = RunConfig(
    pyramid=parse_sides("16*2,8,4"), codes=(64,), channels=32, decoder_input="concat"
)


def step(device: str, bf16: bool):
    """One step: forward, backward, optimiser; as a function to call."""
    torch.manual_seed(0)
    model = build(CONFIG.model_config).to(device)
    optimizer = make_optimizer(model, CONFIG)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    temperature = torch.ones((), device=device)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = training_loss(model(images, temperature))
        loss.backward()
        optimizer.step()

    return run


def training_step(repeats: int, device: str) -> list[Timing]:
    """float32 against bfloat16 autocast."""
    return in_turns({"float32": step(device, False), "bfloat16": step(device, True)}, repeats)


def peak_memory_mib(device: str) -> float:
    """Largest memory so far: of the GPU's allocator, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

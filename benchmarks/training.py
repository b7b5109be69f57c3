"""A training step of a narrow hierarchy: time per image, and peak memory."""

from __future__ import annotations

import resource
import sys

import torch

from benchmarks.timing import Timing, in_turns
from rrvqlib.models import build
from rrvqlib.optimisation.step import Step
from rrvqlib.settings import RunSettings, changed, parse_sides

BATCH = 16
SETTINGS = changed(
    RunSettings(),
    pyramid=parse_sides("16*2,8,4"),
    codebook_size=(64,),
    channels=32,
    decoder_input="concat",
    batch_size=BATCH,
)


def step(device: str, *, bf16: bool) -> Step:
    """One step: images, forward, backward, clipping, optimiser, average; as a function to call."""
    torch.manual_seed(0)
    model = build(SETTINGS.model).to(device)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, device=device)
    made = Step(model, images, SETTINGS, bf16=bf16)
    lr = SETTINGS.schedule.lr
    made.dials.set((lr, lr), temperature=1.0, kl_weight=1.0)
    return made


def training_step(repeats: int, device: str) -> list[Timing]:
    """float32 against bfloat16 autocast."""
    return in_turns(
        {"float32": step(device, bf16=False), "bfloat16": step(device, bf16=True)}, repeats
    )


def peak_memory_mib(device: str) -> float:
    """Largest memory so far: of the GPU's allocator, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

"""Which arithmetic is used where, said once.

- float32 means float32: TF32, whose products carry 10 bits, is allowed nowhere. What the library
  computes with a model (first weights, training, scores, samples, reconstructions) is inside
  `true_float32`; a caller's own `model(images)` goes by the caller's torch. In a bfloat16 run
  (autocast) what stays in float32, the head, the responsibilities, the mixtures of code vectors and
  the likelihood, does so because it needs the bits; a score is never computed in less.
- bfloat16 is for the networks of a training step alone, where the chip has it.
- Coding is in float64.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rrvqlib.errors import UserError

# Asked once: older compilers cannot trace the question, and would cut a layer in pieces.
AUTOCAST_DEVICES = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)
)


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, convolutions and matrix products compute in bfloat16 (autocast)."""
    return torch.autocast(device.type, torch.bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast does not lower the precision of what is computed on a device."""
    if device.type not in AUTOCAST_DEVICES:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def at_least_float32(values: Tensor) -> Tensor:
    """float32, or float64 left as it is."""
    return values if values.dtype == torch.float64 else values.float()


def widest_float(device: torch.device) -> torch.dtype:
    """float64, for a handful of numbers; float32 where a device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of one tensor or more, first to last."""
    return sum(parts[1:], parts[0])


def choose_device(wanted: str) -> torch.device:
    """Where to compute: `cpu`, `cuda`, `mps` (a Mac's GPU), or `auto`, a GPU where there is one.

    Raises:
        UserError: the one asked for is not here.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[wanted]:
        raise UserError(f"--device {wanted}: torch finds no such GPU here; use --device cpu")
    return torch.device(wanted)


def device_name(device: torch.device) -> str:
    """What computes there, in words; no names of machines."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU, {platform.machine()}"
    return f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"


def no_number(what: str) -> UserError:
    """The error for what came out as NaN or infinite."""
    return UserError(
        f"{what}: not a number, or not a finite one, so the model is of no use here; look at"
        " `rrvq diagnose`, or train again with a lower --lr"
    )


def check_finite(what: str, *values: Tensor) -> None:
    """Refuse NaN and infinity where a model is used; it waits for the device, so never in training.

    Raises:
        UserError: there are some; the message begins with `what`.
    """
    if not all(value.isfinite().all() for value in values):
        raise no_number(what)


@contextmanager
def true_float32() -> Iterator[None]:
    """Inside, products of float32 numbers are not rounded to TF32 on a GPU.

    torch has two sets of switches for it, and reading the older one fails where a caller has used
    the newer one. The older is turned wherever it can be read, for `torch.compile` reads it, too.
    """
    backends = torch.backends
    switches: tuple[Any, ...] = (
        backends.cuda.matmul,
        backends.cudnn.conv,  # type: ignore[attr-defined]
        backends.cudnn.rnn,  # type: ignore[attr-defined]
    )
    before = [switch.fp32_precision for switch in switches]
    try:
        older = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        older = None
    try:
        if older is None:
            for switch in switches:
                switch.fp32_precision = "ieee"
        else:
            torch.set_float32_matmul_precision("highest")
            backends.cudnn.allow_tf32 = False
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            backends.cudnn.allow_tf32 = older[1]
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether the networks of a training step compute in bfloat16.

    Args:
        precision: `auto` (where the chip has it), `fp32` or `bf16`.
        device: of the run.
    """
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

"""Models of images without a network: tables of 256 numbers, and a file format."""

from __future__ import annotations

import io

import torch
from torch import Tensor


def log2_histogram(values: Tensor) -> Tensor:
    """Integers 0..255 of any shape -> log2 of how often each occurs, (256,) bits."""
    counts = values.flatten().long().bincount(minlength=256) + 1.0  # no value is impossible
    return (counts / counts.sum()).log2()


def left_differences(images: Tensor) -> Tensor:
    """Each sub-pixel less its left neighbour: (..., S) -> int32 (..., S - 1) from 0 to 255."""
    return (images[..., 1:].int() - images[..., :-1].int()) % 256


def draw_values(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Independent values 0..255 by a table of log2 probabilities (256,): int64 of this shape."""
    drawn = torch.multinomial(table.exp2(), torch.Size(shape).numel(), replacement=True)
    return drawn.view(shape)


def draw_rows(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images whose rows start anywhere and go on by steps to the right.

    Args:
        table: log2 probabilities of the steps modulo 256, (256,).
        shape: of the images, (N, 3, S, S).

    Returns:
        uint8 of this shape.
    """
    steps = draw_values(table, shape)
    steps[..., 0] = torch.randint(256, shape[:-1])
    return (steps.cumsum(-1) % 256).to(torch.uint8)


def png_bits_per_dim(images: Tensor) -> float:
    """Bits per sub-pixel of a PNG file with all images on one sheet, so that its header is small.

    Args:
        images: uint8 (n * n, 3, S, S).
    """
    from PIL import Image

    n, S = round(len(images) ** 0.5), images.shape[-1]
    sheet = images.view(n, n, 3, S, S).permute(0, 3, 1, 4, 2).reshape(n * S, n * S, 3)
    buffer = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(buffer, "PNG", optimize=True)
    return 8 * len(buffer.getvalue()) / sheet.numel()

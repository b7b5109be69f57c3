"""What counts as an image: the one check at every public entry, and how large a picture may be."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.errors import UserError

# Pixels of the largest picture that is read, written or coded: 8192 x 8192, some 200 MB of RGB.
MAX_PIXELS = 1 << 26


def check_pixels(images: Tensor, side: int | None = None, channels: int = 3) -> None:
    """Refuse what is no batch of 8-bit images, before it becomes a number that looks right.

    Args:
        images: to be uint8 (B, c, H, W), B >= 1.
        side: H and W that a model was made for; None takes any.
        channels: c that it was made for, 3 (red, green, blue) or 1 (grey).

    Raises:
        UserError: they are not; the message says how to convert them.
    """
    if not isinstance(images, Tensor):
        raise UserError(f"images are {type(images).__name__}; pass a tensor: torch.as_tensor(...)")
    if images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(
            f"pixels are {kind}; pass uint8 from 0 to 255: {'images' + conversion(images)}"
        )
    shape = tuple(images.shape)
    if images.ndim == 3:
        raise UserError(f"one image of shape {shape}; pass a batch: images[None]")
    if images.ndim != 4 or len(images) == 0:
        raise UserError(
            f"images have shape {shape}; pass (B, {channels}, H, W) with B of 1 or more"
        )
    if shape[1] != channels:
        remedy = f"pass (B, {channels}, H, W)"
        if shape[3] == channels:
            remedy = "channels come second: images.permute(0, 3, 1, 2)"
        elif channels == 1 and shape[1] == 3:
            remedy = "the model is for grey images: images.float().mean(1, keepdim=True).byte()"
        elif shape[1] == 1:
            remedy = "repeat the grey channel: images.expand(-1, 3, -1, -1)"
        elif shape[1] == 4:
            remedy = "leave out the transparency: images[:, :3]"
        raise UserError(f"images have shape {shape}; {remedy}")
    if side is not None and shape[2:] != (side, side):
        raise UserError(
            f"images are {shape[3]}x{shape[2]} pixels, the model is for {side}x{side};"
            " cut or resize them first"
        )


def conversion(images: Tensor) -> str:
    """The code that makes pixels 0 to 255 of a tensor, guessed from its range."""
    if images.dtype == torch.bool:
        return ".to(torch.uint8) * 255"
    if not images.is_floating_point() or not images.numel():
        return ".clamp(0, 255).to(torch.uint8)"
    lowest, highest = images.min().item(), images.max().item()
    if 0 <= lowest and highest <= 1:
        return ".mul(255).round().to(torch.uint8)"
    if -1 <= lowest and highest <= 1:
        return ".add(1).mul(127.5).round().to(torch.uint8), if they range from -1 to 1"
    return ".round().clamp(0, 255).to(torch.uint8)"

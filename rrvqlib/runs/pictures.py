"""Images as PNG files: samples and reconstructions of a run."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrvqlib.data.pixels import MAX_PIXELS
from rrvqlib.errors import UserError
from rrvqlib.files import check_writable, write_atomically
from rrvqlib.likelihoods.base import reals_to_pixels
from rrvqlib.models.base import VAE
from rrvqlib.numerics import check_finite
from rrvqlib.runs.scoring import batches, device_of, evaluating, seeded

RUN_IMAGES = 64  # in each picture of a run folder
STRIP = 20  # pixels of height that a picture's name takes
ON_THE_WAY = 16  # in each picture of a run that goes on


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 images (N, c, H, W) -> one uint8 picture (c, H', W') with white gaps.

    Raises:
        UserError: it would have more than `MAX_PIXELS`.
    """
    N, C, H, W = images.shape
    rows = math.ceil(N / columns)
    check_grid(N, columns, (H, W), gap)
    picture = torch.full((C, rows * (H + gap) - gap, columns * (W + gap) - gap), 255).byte()
    for n, image in enumerate(images):
        top, left = n // columns * (H + gap), n % columns * (W + gap)
        picture[:, top : top + H, left : left + W] = image
    return picture


def check_grid(count: int, columns: int, sides: tuple[int, int], gap: int = 2) -> None:
    """Before long work, make sure that its picture is not too large.

    Args:
        count: of images.
        columns: in which they are laid out.
        sides: height and width of each, in pixels.
        gap: between them.

    Raises:
        UserError: it would have more than `MAX_PIXELS`.
    """
    height, width = sides
    each = (height + gap) * (width + gap)
    if math.ceil(count / columns) * columns * each > MAX_PIXELS:
        raise UserError(
            f"{count} images of {width}x{height} make a picture of more than {MAX_PIXELS} pixels;"
            f" take at most {MAX_PIXELS // each}, or smaller ones"
        )


def under_name(picture: Tensor, name: str) -> Tensor:
    """A uint8 picture (c, H, W) with its name above it: (3, H + STRIP, W)."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (picture.shape[2], STRIP), "white")
    ImageDraw.Draw(strip).text((2, 2), name, fill="black", font=ImageFont.load_default(14))
    above = torch.from_numpy(np.array(strip)).permute(2, 0, 1)
    return torch.cat([above, picture.expand(3, -1, -1)], dim=1)


def check_png(path: Path) -> None:
    """Before long work, make sure that its picture can be written, and is what its name says.

    Raises:
        UserError: it cannot, or the name is not that of a PNG file.
    """
    check_writable(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: pictures are PNG files; choose a name that ends in .png")


def png(picture: Tensor) -> bytes:
    """A uint8 picture (3, H, W), or a grey one (1, H, W), as a PNG file."""
    from PIL import Image

    pixels = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0).contiguous()
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    return file.getvalue()


def write_png(path: Path, picture: Tensor) -> None:
    """Write a uint8 picture (3, H, W), or a grey one (1, H, W), atomically.

    Raises:
        UserError: as `check_png`.
    """
    check_png(path)
    file = png(picture)
    write_atomically(path, lambda temporary: temporary.write_bytes(file))


def sample_images(
    model: VAE, n: int, temperature: float = 1.0, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    """n samples of the model as uint8 (n, c, S, S): the likelihood's means, no pixel noise.

    Args:
        model: it is not set to evaluation here.
        n: how many.
        temperature: of the prior.
        seed: of the draws.
        labels: int64 (n,), of a model with classes; else class after class in turn.

    Raises:
        UserError: as `VAE.sample`; or the model gives NaN.
    """
    if labels is None and model.settings.classes:
        labels = torch.arange(n) % model.settings.classes
    parts = []
    with seeded(seed):
        for k in range(0, n, 64):
            some = None if labels is None else labels[k : k + 64].to(device_of(model))
            parts.append(model.sample(min(64, n - k), temperature, some).cpu())
    check_finite("samples", *parts)
    return reals_to_pixels(torch.cat(parts))


def sample_columns(classes: int, n: int) -> int:
    """In how many columns n samples are laid out: as many for each class, and nearly a square."""
    if not 0 < classes <= n:
        return math.ceil(math.sqrt(n))
    return classes * max(1, round(math.sqrt(n) / classes))


def whole_rows(classes: int, n: int) -> int:
    """At most n samples, so that each of their `sample_columns` has equally many."""
    columns = sample_columns(classes, n)
    return n // columns * columns


def reconstruction_pairs(
    model: VAE, images: Tensor, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    """Reconstruction, original, reconstruction, original, ...: the layout of Fig. E.7.

    Args:
        model: it is not set to evaluation here.
        images: uint8 (N, c, S, S).
        seed: of the draws.
        labels: int64 (N,), of a model with classes.

    Raises:
        UserError: as `VAE.reconstruct`; or the model gives NaN.
    """
    with seeded(seed):  # in parts, so that memory does not grow with the images
        parts = [
            model.reconstruct(batch, some).cpu()
            for batch, some in batches(images, 64, device_of(model), "", labels)
        ]
    check_finite("reconstructions", *parts)
    rebuilt = reals_to_pixels(torch.cat(parts))
    return torch.stack([rebuilt, images.cpu()], dim=1).flatten(0, 1)


def run_pictures(
    model: VAE, images: Tensor, seed: int, labels: Tensor | None = None, count: int = RUN_IMAGES
) -> dict[str, bytes]:
    """`samples` and `reconstructions` as PNG files; a column a class, if there are.

    Args:
        model: in any mode.
        images: uint8 (N, c, S, S), of which the first are reconstructed.
        seed: of the draws.
        labels: int64 (N,), of a model with classes.
        count: images in each picture, originals beside reconstructions included; samples end with
            a whole row.
    """
    classes = model.settings.classes
    some = None if labels is None else labels[: count // 2]
    with evaluating(model, seed):
        samples = sample_images(model, whole_rows(classes, count), seed=seed)
        pairs = reconstruction_pairs(model, images[: count // 2], seed, some)
    return {
        "samples": png(grid(samples, sample_columns(classes, count))),
        "reconstructions": png(grid(pairs, columns=8)),
    }


def write_run_pictures(
    model: VAE, test_images: Tensor, out: Path, seed: int, labels: Tensor | None = None
) -> dict[str, bytes]:
    """Write the pictures of a finished run into its folder; returns what `run_pictures` does."""
    files = run_pictures(model, test_images, seed, labels)
    for name, file in files.items():
        write_atomically(
            out / f"{name}.png", lambda temporary, file=file: temporary.write_bytes(file)
        )
    return files

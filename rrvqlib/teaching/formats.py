"""Pictures as files of common formats: their sizes, with and without headers, and what is seen."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rrvqlib.runs.similarity import psnr

if TYPE_CHECKING:
    from rrvqlib.coding.codec import Codec

QUALITIES = (1, 5, 10, 20, 35, 50, 65, 80, 90, 95)
RIFF = 20  # bytes of a WebP file before its picture


class Lossy(NamedTuple):
    """A picture that was written to a file with loss, and read again.

    Attributes:
        bits: of the whole file.
        payload: bits of it that belong to the picture, without markers and tables.
        image: uint8 (3, H, W).
    """

    bits: int
    payload: int
    image: Tensor


def written(image: Tensor, name: str, **options: object) -> bytes:
    """The file that Pillow writes of a uint8 image (3, H, W); `name` is PNG, JPEG or WEBP."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, name, **options)
    return buffer.getvalue()


def seen(file: bytes) -> Tensor:
    """The picture in a file, uint8 (3, H, W)."""
    from PIL import Image

    array = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).copy()
    return torch.from_numpy(array).permute(2, 0, 1)


def header(file: bytes) -> int:
    """Bytes of a JPEG before its picture: markers and tables, and the two of its end marker."""
    scan = file.index(b"\xff\xda")  # start of scan; its header tells its own length
    return scan + 2 + int.from_bytes(file[scan + 2 : scan + 4], "big") + 2


def jpeg(image: Tensor, quality: int, colour: str = "4:2:0") -> Lossy:
    """A uint8 image (3, H, W) as a JPEG with tables of its own; colour at half the resolution."""
    file = written(image, "JPEG", quality=quality, subsampling=colour, optimize=True)
    return Lossy(8 * len(file), 8 * (len(file) - header(file)), seen(file))


def jpeg_full(image: Tensor, quality: int) -> Lossy:
    """The same with colour at full resolution, which is the better JPEG where bits are many."""
    return jpeg(image, quality, "4:4:4")


def webp(image: Tensor, quality: int) -> Lossy:
    """A uint8 image (3, H, W) as a WebP with loss, whose colour has half the resolution always."""
    file = written(image, "WEBP", quality=quality, method=6)
    return Lossy(8 * len(file), 8 * (len(file) - RIFF), seen(file))


JPEG = (jpeg, jpeg_full)  # at equal bits the better of the two counts
WEBP = (webp,)


def best_under(
    budget: float, image: Tensor, coders: Sequence[Callable[[Tensor, int], Lossy]]
) -> Tensor:
    """What is seen at the highest payload of at most `budget` bits, or else at the lowest.

    Of several coders the one that comes closer to the image.
    """
    found = []
    for coder in coders:
        tried = [coder(image, quality) for quality in range(0, 96, 3)]
        fitting = [one for one in tried if one.payload <= budget]
        if fitting:
            found.append(max(fitting, key=lambda one: one.payload).image)
    if not found:
        return min((coder(image, 0) for coder in coders), key=lambda one: one.payload).image
    return max(found, key=lambda seen: psnr(image[None], seen[None]))


def rate_distortion(
    images: Tensor, coder: Callable[[Tensor, int], Lossy], qualities: Sequence[int] = QUALITIES
) -> np.ndarray:
    """Mean bits of a file, mean bits of its payload, and dB of all pixels, (Q, 3)."""
    rows = []
    for quality in qualities:
        bits, payloads, pictures = zip(*(coder(x, quality) for x in images), strict=True)
        rows.append((np.mean(bits), np.mean(payloads), psnr(images, pictures)))
    return np.array(rows)


def decibels_at(
    budget: float, image: Tensor, coders: Sequence[Callable[[Tensor, int], Lossy]]
) -> float:
    """PSNR of one image at a payload of `budget` bits, between qualities by the log of the bits.

    Of several coders the best. Beyond a coder's lowest and highest quality it stays what it is
    there.
    """
    return max(_decibels_at(budget, image, coder) for coder in coders)


def _decibels_at(budget: float, image: Tensor, coder: Callable[[Tensor, int], Lossy]) -> float:
    tried = [coder(image, quality) for quality in QUALITIES]
    payloads = np.maximum.accumulate([one.payload for one in tried])
    return float(
        np.interp(
            np.log(budget), np.log(payloads), [psnr(image[None], x.image[None]) for x in tried]
        )
    )


def gains(
    codec: Codec,
    images: Tensor,
    coders: Sequence[Callable[[Tensor, int], Lossy]],
    budget: int | None = None,
) -> list[float]:
    """By how many dB a hierarchy's codes are better, picture by picture, at equal bits.

    Args:
        codec: all of its layers are kept.
        images: uint8 (N, 3, S, S).
        coders: the rival; of several the best at these bits.
        budget: bits of the rival's payload; None for the price of the picture's codes under the
            prior.
    """
    found = []
    for image in images.split(1):
        coded, pictures = codec.encode_codes(image, len(codec.layers))
        bits = coded.net_bits if budget is None else budget
        found.append(psnr(image, pictures) - decibels_at(bits, image[0], coders))
    return found


def lossless_bits_per_dim(images: Iterable[Tensor], name: str, **options: object) -> float:
    """Bits a sub-pixel of one file for each uint8 image (3, H, W), headers and all."""
    sizes = [(8 * len(written(image, name, **options)), image.numel()) for image in images]
    return sum(bits for bits, _ in sizes) / sum(dims for _, dims in sizes)

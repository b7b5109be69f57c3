"""A picture file -> 8-bit RGB pixels, and what of it they do not hold: the one reader."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrvqlib.data.pixels import MAX_PIXELS
from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Pillow's names of the formats whose depth is known here. Of others it may open 16 bits as 8 and
# say nothing; EPS would run a program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
# Endings of their files' names.
SUFFIXES = frozenset(
    ".apng .avif .bmp .gif .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .pbm .pgm .png .pnm .ppm .qoi"
    " .tga .tif .tiff .webp".split()
)
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL = 258, 277  # tags of TIFF


@dataclass(frozen=True)
class Picture:
    """A picture as 8-bit RGB.

    Attributes:
        pixels: uint8 (H, W, 3), upright. Transparent ones lie on white; of frames the first.
        lost: what of the file's pixels these do not hold, such as `transparent pixels`.
        dropped: what else they leave out; every colour value is kept.
    """

    pixels: np.ndarray
    lost: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def is_grey(self) -> bool:
        """Whether red, green and blue agree everywhere."""
        return bool((self.pixels == self.pixels[..., :1]).all())


def read_picture(path: Path) -> Picture:
    """Read a picture file of one of `FORMATS`.

    Raises:
        UserError: it is none or damaged, has more than 8 bits per pixel and channel, or more
            than `MAX_PIXELS`, which is looked at before any are decoded.
    """
    from PIL import Image, ImageOps

    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise UserError(f"{path} is no file; name a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large pictures and odd metadata
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise UserError(
                        f"{path} has {file.width}x{file.height} pixels, more than {MAX_PIXELS}; cut"
                        " it in pieces"
                    )
                if has_deep_pixels(file, path):
                    raise UserError(
                        f"{path} has more than 8 bits per pixel and channel; convert it to 8 first"
                    )
                lost, dropped = what_is_lost(file), what_is_dropped(file)
                upright = ImageOps.exif_transpose(file)
                if "transparent pixels" in lost:
                    upright = upright.convert("RGBA")
                    white = Image.new("RGBA", upright.size, "white")
                    upright = Image.alpha_composite(white, upright)
                return Picture(np.array(upright.convert("RGB")), lost, dropped)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a picture file") from None
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {MAX_PIXELS} pixels; cut it in pieces") from None
    # Each of Pillow's decoders raises its own kinds on a damaged file.
    except Exception as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); fix or remove it") from None


def has_deep_pixels(file: ImageFile, path: Path) -> bool:
    """Whether a picture just opened has more than 8 bits per pixel and channel.

    Pillow opens 16-bit colour in PNG, TIFF, PPM, JPEG 2000 and AVIF as 8-bit, and clips or scales.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    if file.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in file.tile):
        return True
    if file.format == "PPM":  # the decoder is given the largest value
        given = (arguments for *_, arguments in file.tile if isinstance(arguments, tuple))
        return any(isinstance(a, int) and a > 255 for arguments in given for a in arguments)
    if isinstance(file, TiffImageFile):
        return max(np.atleast_1d(file.tag_v2.get(BITS_PER_SAMPLE, 1))) > 8
    if file.format in ("JPEG2000", "AVIF"):
        return depth_in_header(path.read_bytes(), file.format) > 8
    return False


def depth_in_header(data: bytes, format: str) -> int:
    """Bits per channel, from the bytes of a JPEG 2000 or AVIF file; 16 where none are found.

    The former's stand in its SIZ marker, one byte for each component (ISO 15444-1, A.5.1), the
    latter's in the second byte after the head of the av1C box (AV1-ISOBMFF, 2.3.3).
    """
    if format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")
        depths = data[at + 42 :: 3][: int.from_bytes(data[at + 40 : at + 42])] if at >= 0 else b""
        return max(((depth & 0x7F) + 1 for depth in depths), default=16)
    depths = []
    at = data.find(b"av1C")
    while at >= 0:
        flags = data[at + 6 : at + 7] or b"\xff"
        depths.append(8 if not flags[0] & 0x40 else 12 if flags[0] & 0x20 else 10)
        at = data.find(b"av1C", at + 4)
    return max(depths, default=16)


def what_is_lost(file: ImageFile) -> tuple[str, ...]:
    """What of the pixels of a picture just opened has no place among 8-bit RGB ones."""
    from PIL.TiffImagePlugin import TiffImageFile

    lost = []
    if file.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        lost.append(f"colours of the kind {file.mode}")
    if getattr(file, "is_animated", False):
        lost.append("more than one frame")
    # How many pixels there are of each opacity; 255 is opaque.
    if file.has_transparency_data and any(file.convert("RGBA").getchannel("A").histogram()[:255]):
        lost.append("transparent pixels")
    is_tiff = isinstance(file, TiffImageFile)
    if is_tiff and file.tag_v2.get(SAMPLES_PER_PIXEL, 1) > len(file.getbands()):
        lost.append("a further channel")
    return tuple(lost)


def what_is_dropped(file: ImageFile) -> tuple[str, ...]:
    """What else of a picture just opened does not come back from its RGB pixels."""
    dropped = []
    if "icc_profile" in file.info:
        dropped.append("its colour profile")
    if file.mode in ("P", "PA"):
        dropped.append("its palette")
    if file.mode in ("1", "L", "LA"):
        dropped.append("being grey")
    return tuple(dropped)

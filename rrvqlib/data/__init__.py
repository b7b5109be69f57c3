"""Dataset name -> uint8 images (N, c, H, W) in three fixed splits."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    registry="DATASETS DataSet",
    loading="check load path_of",
    splits="SPLITS Splits",
    swatches="SWATCHES",
    photos="PHOTOS",
    pixels="MAX_PIXELS check_pixels",
    reader="Picture read_picture",
)

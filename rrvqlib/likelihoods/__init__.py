"""Decoder output -> the probability of 8-bit pixels, one kind of likelihood a file."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    base="Channel Likelihood clip log_bin_mass pixels_to_reals reals_to_pixels",
    logistic="Logistic",
    logistic_edge="EdgeLogistic",
    logistic_pixel="PixelLogistic",
    mixture="LogisticMixture",
)

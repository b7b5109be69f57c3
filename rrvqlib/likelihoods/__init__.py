"""Decoder output -> the probability of 8-bit pixels, one kind of likelihood a file."""

from rrvqlib.configs import ModelConfig
from rrvqlib.likelihoods.base import (
    Channel,
    Likelihood,
    clip,
    log_bin_mass,
    pixels_to_reals,
    reals_to_pixels,
)
from rrvqlib.likelihoods.logistic import Logistic
from rrvqlib.likelihoods.logistic_edge import EdgeLogistic
from rrvqlib.likelihoods.logistic_pixel import PixelLogistic
from rrvqlib.likelihoods.mixture import LogisticMixture

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "logistic": Logistic,
    "logistic-edge": EdgeLogistic,
    "logistic-pixel": PixelLogistic,
    "mixture": LogisticMixture,
}


def build_likelihood(config: ModelConfig) -> Likelihood:
    """The likelihood that `config.likelihood` names."""
    return LIKELIHOODS[config.likelihood](config)


__all__ = [
    "LIKELIHOODS",
    "Channel",
    "Likelihood",
    "build_likelihood",
    "clip",
    "log_bin_mass",
    "pixels_to_reals",
    "reals_to_pixels",
]

"""What all kinds of latent variables share: a posterior and a prior -> a draw and its KL.

Networks speak in maps (B, C, H, W); the formulas want the channels last. A prior without
parameters (uniform, or standard normal) is a map of no channels, (B, 0, H, W).

A new kind is a file of this package with a subclass of `Latent` or `DiscreteLatent`, and in
`rrvqlib/settings/latents.py` a class of settings and a line of the registry `LATENTS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LatentDraw:
    """One layer, drawn from its posterior.

    Attributes:
        vectors: (B, D, H, W), what the decoder sees.
        kl: (B, H, W) nats.
        codes: int64 (B, H, W, G), or None where latents are continuous.
        log_ratio: (B,) nats, log p - log q of the draw; None for relaxed draws. (A nearest code
            is never relaxed.)
        vq_loss: (B,) nats, or None; see `ElboTerms`.
        prior_entropy: (B, H, W) nats, of p(z_l | above); None for relaxed draws, for Gaussians, and
            where the prior is uniform whatever the settings (nearest, scalar).
    """

    vectors: Tensor
    kl: Tensor
    codes: Tensor | None = None
    log_ratio: Tensor | None = None
    vq_loss: Tensor | None = None
    prior_entropy: Tensor | None = None


def channels_last(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return maps.permute(0, 2, 3, 1)


def channels_first(vectors: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return vectors.permute(0, 3, 1, 2)


class Latent(nn.Module, ABC):
    """One layer's variables: what a posterior and a prior say of them -> a draw and its KL.

    Attributes:
        vector_size: D, channels that the decoder sees.
        posterior_size: channels that the network must output for q.
        prior_size: ... for p; 0: a fixed prior.
    """

    vector_size: int
    posterior_size: int
    prior_size: int

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Any, layer: int, *, learnt_prior: bool) -> Latent:
        """The latents of a layer (0 is l = 1).

        Args:
            settings: of this kind.
            layer: which of the settings that differ by layer.
            learnt_prior: whether networks give the prior; otherwise it is fixed.
        """

    @abstractmethod
    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw from the posterior, with the KL.

        Args:
            posterior: (B, posterior_size, H, W).
            prior: (B, prior_size, H, W).
            temperature: of a relaxed draw, (); None for a true one, with its `log_ratio`.
        """

    @abstractmethod
    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Vectors (B, D, H, W) drawn from the prior; temperature 0 gives its mode.

        Args:
            prior: (B, prior_size, H, W).
            temperature: of the prior.
        """

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        """Those that learn at the codebooks' rate."""
        return ()

    def raw_log_variances(self) -> Iterable[nn.Parameter]:
        """Those that every step brings back into +-`MAX_LOG_VARIANCE`."""
        return ()

    def start_from(self, posterior: Tensor) -> None:
        """Set codes, where there are any, from a first batch of posteriors."""


class DiscreteLatent(Latent):
    """Latents that are symbols: at every position G of them, each with K values.

    G = 1 for a codebook; G = D and K = 2 for bits.

    Attributes:
        symbols: G.
        values: K.
    """

    symbols: int
    values: int

    @abstractmethod
    def log_posterior(self, posterior: Tensor) -> Tensor:
        """(B, posterior_size, H, W) -> log q, (B, H, W, G, K) nats."""

    @abstractmethod
    def log_prior(self, prior: Tensor) -> Tensor:
        """(B, prior_size, H, W) -> log p, (B, H, W, G, K) nats."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, H, W, G) -> their vectors (B, D, H, W)."""

    @abstractmethod
    def codes_of(self, vectors: Tensor) -> Tensor:
        """The inverse of `lookup`: (B, D, H, W) -> int64 (B, H, W, G)."""

    def uniform(self, prior: Tensor) -> Tensor:
        """log p of a uniform prior: (B, 0, H, W) -> (B, H, W, G, K) nats."""
        B, _, H, W = prior.shape
        return log_uniform(prior, B, H, W, self.symbols, self.values)


def log_uniform(like: Tensor, *shape: int) -> Tensor:
    """Log-probabilities (..., K) of equally likely values, in nats, on the device of `like`."""
    return like.new_full((1,), -math.log(shape[-1]), dtype=torch.float32).expand(shape)


def of_codes(table: Tensor, codes: Tensor) -> Tensor:
    """The entries of a table (..., G, K) at codes (..., G): (..., G)."""
    return table.gather(-1, codes.unsqueeze(-1)).squeeze(-1)

"""The codebook of a layer: K embeddings of size D, each with a variance; or G such codebooks.

G codebooks stand side by side: they share the D numbers of a vector, D / G each, and every one
sends a code of its own. That makes K^G vectors of G K embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.latents.base import DiscreteLatent, channels_first, channels_last
from rrvqlib.settings.latents import CodebookSettings

MAX_LOG_VARIANCE = 5.0
COVARIANCES = ("isotropic", "diagonal", "as_printed", "fixed", "shared")
INITS = ("normal", "unit", "kmeans")


@dataclass(frozen=True)
class GaussianTerms:
    """What Eq. (6) needs of a codebook; dimensions before (K, D) are other codebooks.

    -(e - E)^2 / 2s = e.E/s - e^2/2s - E^2/2s: one matrix product of (e, e^2) with the codes'
    (E/s, -1/2s), no (N, K, D) array of differences.

    Attributes:
        centre: (..., D), of the codes; distances do not change, rounding errors shrink.
        weights: (..., K, D + 1), of e and its squared length; (..., K, 2 D) when diagonal.
        biases: (..., K), what is left: -E^2/2s and the normaliser's half.
    """

    centre: Tensor
    weights: Tensor
    biases: Tensor


def gaussian_terms(means: Tensor, raw_log_variances: Tensor, covariance: str) -> GaussianTerms:
    """Means (..., K, D) and raw log-variances of a codebook, or of several of one covariance."""
    log_variances = clamped(raw_log_variances, means.shape[-2], covariance)
    normaliser = log_normaliser(log_variances, means.shape[-1], covariance)
    centre = means.detach().mean(-2)
    means = means - centre.unsqueeze(-2)
    precision = (-log_variances).exp()  # (..., K) or (..., K, D)
    if covariance != "diagonal":
        precision = precision.unsqueeze(-1)  # (..., K, 1), beside the squared length of e
    weights = torch.cat([means * precision, -precision / 2], dim=-1)
    constant = (means.square() * precision).sum(-1) + normaliser
    return GaussianTerms(centre, weights, -constant / 2)


def affine(features: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Products with every code: (..., I), (K, I), (K,) -> (..., K).

    With G codebooks, each features with its own: (..., G, I), (G, K, I), (G, K) -> (..., G, K).
    """
    # One product of matrices, whatever the leading dimensions and strides: several times as fast.
    if weights.ndim == 2:
        rows = features.reshape(-1, features.shape[-1])
        return F.linear(rows, weights, biases).view(*features.shape[:-1], -1)
    rows = features.reshape(-1, *features.shape[-2:]).transpose(0, 1)  # (G, N, I)
    products = torch.baddbmm(biases.unsqueeze(1), rows, weights.transpose(1, 2))
    return products.transpose(0, 1).unflatten(0, features.shape[:-2])


def clamped(raw_log_variances: Tensor, codes: int, covariance: str) -> Tensor:
    """Clamped to +-5: (..., K), or (..., K, D) when diagonal."""
    found = raw_log_variances.clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
    return found.expand(*found.shape[:-1], codes) if covariance == "shared" else found


def log_normaliser(log_variances: Tensor, dimensions: int, covariance: str) -> Tensor:
    """Log of the determinant under the square root of Eq. (6), without (2 pi)^D; (..., K).

    The paper prints s^(1/2) whatever the dimension; a density in D dimensions needs s^(D/2).
    """
    if covariance == "diagonal":
        return log_variances.sum(-1)
    if covariance == "as_printed":
        return log_variances
    return dimensions * log_variances


class Codebook(nn.Module):
    """K Gaussians in D dimensions: E_mu and E_Sigma of Eq. (6) and (7).

    A codebook belongs to one layer and is shared by its posterior and its prior.

    Args:
        codebook_size: K.
        embedding_dim: D.
        covariance: `isotropic`, one variance per code and the normaliser of a density in D
            dimensions; `diagonal`, one per code and coordinate; `as_printed`, one per code and
            the normaliser s^(-1/2) that Eq. (6) prints; `fixed`, all variances 1, Eq. (2);
            `shared`, one learnt variance for all codes, whose normaliser cancels: a temperature
            of the distances (as in SQ-VAE, Takida et al. 2022).
        init: `normal`, coordinates with standard deviation D^(-1/2), so that codes have length
            about 1; `unit`, standard deviation 1. (`kmeans` starts as `normal` and is then set
            from the first batch by `kmeans_`.)
        groups: G, codebooks side by side; each has K codes of size D / G.

    Raises:
        ValueError: there is no such covariance or init, or D is no multiple of G.

    Attributes:
        means: (K, D), or (G, K, D / G) when there are several groups.
        prepared: its terms where they were computed beforehand; see `models.batched_weights`.
    """

    prepared: GaussianTerms | None = None

    def __init__(
        self,
        codebook_size: int,
        embedding_dim: int,
        covariance: str = "isotropic",
        init: str = "normal",
        groups: int = 1,
    ):
        super().__init__()
        for name, value, choices in (
            ("covariance", covariance, COVARIANCES),
            ("init", init, INITS),
        ):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: must be one of {', '.join(choices)}")
        size, rest = divmod(embedding_dim, groups)
        if rest:
            raise ValueError(f"embedding_dim {embedding_dim} is no multiple of groups {groups}")
        self.covariance, self.groups = covariance, groups
        self.codebook_size, self.embedding_dim = codebook_size, embedding_dim
        several = (groups,) if groups > 1 else ()
        std = 1.0 if init == "unit" else size**-0.5
        self.means = nn.Parameter(torch.randn(*several, codebook_size, size) * std)
        if covariance == "fixed":
            self.raw_log_variances = None
        else:
            shapes = {"diagonal": (codebook_size, size), "shared": (1,)}
            shape = shapes.get(covariance, (codebook_size,))
            self.raw_log_variances = nn.Parameter(torch.zeros(*several, *shape))

    @classmethod
    def from_settings(
        cls, settings: CodebookSettings, layer: int, covariance: str, groups: int = 1
    ) -> Codebook:
        """The codebook of a layer; 0 is l = 1."""
        K, D = settings.size(layer), settings.embedding_dim
        return cls(K, D, covariance, settings.codebook_init, groups)

    def split(self, features: Tensor) -> Tensor:
        """What each group sees of features: (..., D) -> (..., G, D / G); with one group, all.

        Raises:
            ValueError: features have another D.
        """
        D = self.embedding_dim
        if features.shape[-1] != D:
            raise ValueError(f"features have D={features.shape[-1]}, the codebook has D={D}")
        return features if self.groups == 1 else features.unflatten(-1, (self.groups, -1))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (..., G) -> their vectors side by side, (..., D)."""
        return chosen_means(self.means, codes).flatten(-2)

    @property
    def log_variances(self) -> Tensor | None:
        """Clamped to +-5; (K,), or (K, D) when diagonal; None when fixed at variance 1.

        With several groups (G, K), or (G, K, D / G).
        """
        if self.raw_log_variances is None:
            return None
        return clamped(self.raw_log_variances, self.codebook_size, self.covariance)

    @property
    def log_normaliser(self) -> Tensor:
        """See the function of this name; (K,)."""
        log_variances = self.log_variances
        if log_variances is None:
            raise ValueError("a codebook of fixed variance has no normaliser: it is one for all")
        return log_normaliser(log_variances, self.means.shape[-1], self.covariance)

    @property
    def terms(self) -> GaussianTerms | None:
        """What responsibilities need; None when variances are fixed at 1."""
        if self.prepared or self.raw_log_variances is None:
            return self.prepared
        return gaussian_terms(self.means, self.raw_log_variances, self.covariance)

    @torch.no_grad()
    def kmeans_(self, features: Tensor, iterations: int = 10) -> None:
        """Set the means to the centres of `features` (N, D) found by Lloyd's algorithm."""
        features = self.split(features.float())
        if self.groups == 1:
            self.means.copy_(lloyd(features, self.codebook_size, iterations))
        else:
            for means, own in zip(self.means, features.unbind(1), strict=True):
                means.copy_(lloyd(own, self.codebook_size, iterations))


def lloyd(features: Tensor, K: int, iterations: int) -> Tensor:
    """K centres (K, D) of features (N, D), by Lloyd's algorithm from K of them."""
    # With fewer features than codes some are drawn twice; jitter keeps such codes apart.
    chosen = torch.randperm(len(features), device=features.device)
    centres = features[chosen.repeat(math.ceil(K / len(chosen)))[:K]]
    centres = centres + 0.01 * features.std(correction=0) * torch.randn_like(centres)
    for _ in range(iterations):
        nearest = nearest_codes(features, centres)
        counts = torch.bincount(nearest, minlength=K).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, features)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres


def nearest_codes(features: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest mean for each feature, Eq. (1): (..., D), (K, D) -> int64 (...).

    With G codebooks (..., G, D / G), (G, K, D / G) -> int64 (..., G).
    """
    centre = means.mean(-2)
    features, means = features - centre, means - centre.unsqueeze(-2)
    # |e|^2 is the same for all codes, so it can stay out of the comparison.
    return affine(features, means, -means.square().sum(-1) / 2).argmax(-1)


def chosen_means(means: Tensor, codes: Tensor) -> Tensor:
    """The means (K, D) of codes (...): (..., D).

    With G codebooks, (G, K, D / G) and (..., G): (..., G, D / G).
    """
    if means.ndim == 3:  # one table of all codebooks, one below the other
        G, K, _ = means.shape
        codes, means = codes + K * torch.arange(G, device=codes.device), means.flatten(0, 1)
    # Not F.embedding, whose gradient sorts the codes first.
    return means.index_select(0, codes.flatten()).unflatten(0, codes.shape)


class CodebookLatent(DiscreteLatent):
    """What all latents with a codebook share.

    Args:
        codebook: K codes of size D, shared by posterior and prior.
    """

    def __init__(self, codebook: Codebook):
        super().__init__()
        self.codebook = codebook
        self.symbols, self.values = codebook.groups, codebook.codebook_size
        self.vector_size = self.posterior_size = codebook.embedding_dim

    def lookup(self, codes: Tensor) -> Tensor:
        return channels_first(self.codebook.lookup(codes))

    def codes_of(self, vectors: Tensor) -> Tensor:
        features = self.codebook.split(channels_last(vectors))
        codes = nearest_codes(features, self.codebook.means)
        return codes.view(*codes.shape[:3], self.symbols)

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        return self.codebook.parameters()

    def raw_log_variances(self) -> Iterable[nn.Parameter]:
        raw = self.codebook.raw_log_variances
        return () if raw is None else (raw,)

    def start_from(self, posterior: Tensor) -> None:
        self.codebook.kmeans_(channels_last(posterior).flatten(0, 2))

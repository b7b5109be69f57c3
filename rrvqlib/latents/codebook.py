"""The codebook of a layer: K embeddings of size D, each with a variance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
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

    Raises:
        ValueError: there is no such covariance or init.

    Attributes:
        prepared: its terms where they were computed beforehand; see `models.batched_weights`.
    """

    prepared: GaussianTerms | None = None

    def __init__(
        self,
        codebook_size: int,
        embedding_dim: int,
        covariance: str = "isotropic",
        init: str = "normal",
    ):
        super().__init__()
        for name, value, choices in (
            ("covariance", covariance, COVARIANCES),
            ("init", init, INITS),
        ):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: must be one of {', '.join(choices)}")
        self.covariance = covariance
        std = 1.0 if init == "unit" else embedding_dim**-0.5
        self.means = nn.Parameter(torch.randn(codebook_size, embedding_dim) * std)  # (K, D)
        if covariance == "fixed":
            self.raw_log_variances = None
        else:
            shapes = {"diagonal": (codebook_size, embedding_dim), "shared": (1,)}
            shape = shapes.get(covariance, (codebook_size,))
            self.raw_log_variances = nn.Parameter(torch.zeros(shape))

    @classmethod
    def from_settings(
        cls, settings: CodebookSettings, layer: int, covariance: str = "isotropic"
    ) -> Codebook:
        """The codebook of a layer; 0 is l = 1."""
        K, D = settings.size(layer), settings.embedding_dim
        return cls(K, D, covariance, settings.codebook_init)

    @property
    def log_variances(self) -> Tensor | None:
        """Clamped to +-5; (K,), or (K, D) when diagonal; None when fixed at variance 1."""
        if self.raw_log_variances is None:
            return None
        return clamped(self.raw_log_variances, len(self.means), self.covariance)

    @property
    def log_normaliser(self) -> Tensor:
        """See the function of this name; (K,)."""
        log_variances = self.log_variances
        if log_variances is None:
            raise ValueError("a codebook of fixed variance has no normaliser: it is one for all")
        return log_normaliser(log_variances, self.means.shape[1], self.covariance)

    @property
    def terms(self) -> GaussianTerms | None:
        """What responsibilities need; None when variances are fixed at 1."""
        if self.prepared or self.raw_log_variances is None:
            return self.prepared
        return gaussian_terms(self.means, self.raw_log_variances, self.covariance)

    @torch.no_grad()
    def kmeans_(self, features: Tensor, iterations: int = 10) -> None:
        """Set the means to the centres of `features` (N, D) found by Lloyd's algorithm."""
        features = features.float()
        K = len(self.means)
        # With fewer features than codes some are drawn twice; jitter keeps such codes apart.
        chosen = torch.randperm(len(features), device=features.device)
        centres = features[chosen.repeat(math.ceil(K / len(chosen)))[:K]]
        centres = centres + 0.01 * features.std() * torch.randn_like(centres)
        for _ in range(iterations):
            nearest = nearest_codes(features, centres)
            counts = torch.bincount(nearest, minlength=K).unsqueeze(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, features)
            centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        self.means.copy_(centres)


class CodebookAverage(nn.Module):
    """Means learnt as moving averages of the features that chose them (Oord et al. 2017, App. A).

    Counts are Laplace-smoothed. Also revives dead codes; their averages restart with them, or
    the next update would pull them back.

    Args:
        codebook: the codebook whose means are set; `learn` says whether the averages set them
            (`ema`) or only count usage, so that dead codes can be found (`loss`).
        decay: of the moving averages.
        dead_code_threshold: codes chosen less often than this, on average per batch, are moved to a
            random feature of the batch; 0 turns it off.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self, codebook: Codebook, decay: float, dead_code_threshold: float, *, learn: bool
    ):
        super().__init__()
        self.decay, self.dead_code_threshold, self.learn = decay, dead_code_threshold, learn
        # A fresh code counts as used, or every code would be restarted at the first step.
        self.fresh_count = max(1.0, 2 * dead_code_threshold)
        self.register_buffer("counts", torch.empty(len(codebook.means)))
        self.register_buffer("sums", torch.empty_like(codebook.means, requires_grad=False))
        self.reset(codebook)
        codebook.means.requires_grad_(not learn)

    @torch.no_grad()
    def reset(self, codebook: Codebook) -> None:
        """Start the averages at the codebook's means, after these were set from outside."""
        self.counts.fill_(self.fresh_count)
        self.sums.copy_(codebook.means * self.fresh_count)

    @torch.no_grad()
    def update(self, codebook: Codebook, features: Tensor, codes: Tensor) -> None:
        """One step with `features` (N, D) and the `codes` (N,) they chose."""
        features = features.float()
        K = len(self.counts)
        # Not bincount, nor a branch below: both would wait for the GPU.
        ones = torch.ones_like(codes, dtype=self.counts.dtype)
        counts = torch.zeros_like(self.counts).index_add_(0, codes, ones)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, features)
        candidates = features[torch.randint(len(features), (K,), device=features.device)]
        if dist.is_available() and dist.is_initialized():  # one codebook for all processes
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            dist.broadcast(candidates, src=0)
        finite = sums.isfinite().all()
        means = codebook.means
        counts = self.counts.lerp(counts, 1 - self.decay)
        sums = self.sums.lerp(sums, 1 - self.decay)
        if self.learn:
            epsilon, total = 1e-5, counts.sum()
            smoothed = (counts + epsilon) / (total + K * epsilon) * total
            means = sums / smoothed.unsqueeze(1)
        dead = counts < self.dead_code_threshold
        means = torch.where(dead.unsqueeze(1), candidates, means)
        sums = torch.where(dead.unsqueeze(1), candidates * self.fresh_count, sums)
        counts = torch.where(dead, self.fresh_count, counts)
        # Features that are not finite leave no trace: their step is going to be skipped.
        for old, new in ((codebook.means, means), (self.sums, sums), (self.counts, counts)):
            old.copy_(torch.where(finite, new, old))


def nearest_codes(features: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest mean for each feature, Eq. (1): (..., D), (K, D) -> int64 (...)."""
    centre = means.mean(0)
    features, means = features - centre, means - centre
    # |e|^2 is the same for all codes, so it can stay out of the comparison.
    return (features @ means.T - means.square().sum(1) / 2).argmax(-1)


class CodebookLatent(DiscreteLatent):
    """What all latents with a codebook share.

    Args:
        codebook: K codes of size D, shared by posterior and prior.
    """

    symbols = 1

    def __init__(self, codebook: Codebook):
        super().__init__()
        self.codebook = codebook
        self.values, self.vector_size = codebook.means.shape
        self.posterior_size = self.vector_size

    def lookup(self, codes: Tensor) -> Tensor:
        return channels_first(F.embedding(codes.squeeze(-1), self.codebook.means))

    def codes_of(self, vectors: Tensor) -> Tensor:
        return nearest_codes(channels_last(vectors), self.codebook.means).unsqueeze(-1)

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        return self.codebook.parameters()

    def raw_log_variances(self) -> Iterable[nn.Parameter]:
        raw = self.codebook.raw_log_variances
        return () if raw is None else (raw,)

    def start_from(self, posterior: Tensor) -> None:
        self.codebook.kmeans_(channels_last(posterior).flatten(0, 2))

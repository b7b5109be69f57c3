"""Features and a codebook -> log-probabilities over its K codes.

Three quantisers, three functions with one signature: `log_nearest` (VQ), `log_relaxed` (relaxed
VQ) and `log_responsibilities` (relaxed-responsibility VQ). With a codebook of G groups all three
give (..., G, K): each group has its part of the features, D / G of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rrvqlib.latents.codebook import Codebook, affine, nearest_codes
from rrvqlib.numerics import at_least_float32, full_precision


def log_nearest(features: Tensor, codebook: Codebook) -> Tensor:
    """One-hot posterior on the nearest code: Eq. (1).

    Args:
        features: encoder output, (..., D), unbounded.
        codebook: means (K, D); variances play no part.

    Returns:
        (..., K), 0 at the nearest code, -inf elsewhere; float32, or float64 like the features.

    Raises:
        ValueError: features and codebook disagree on D.
    """
    features = codebook.split(features)
    with full_precision(features.device):
        features = at_least_float32(features)
        one_hot = F.one_hot(nearest_codes(features, codebook.means), codebook.codebook_size)
        return one_hot.to(features.dtype).log()


def log_relaxed(features: Tensor, codebook: Codebook) -> Tensor:
    """Log-probabilities that fall with the squared distance to each code: Eq. (2).

    Args:
        features: encoder output, (..., D), unbounded.
        codebook: means (K, D); variances play no part.

    Returns:
        (..., K), in nats; its exponential sums to 1 over K. float32, or float64 like the features.

    Raises:
        ValueError: features and codebook disagree on D.
    """
    features, means = codebook.split(features), codebook.means
    with full_precision(features.device):
        centre = means.detach().mean(-2)  # distances do not change, rounding errors shrink
        features = at_least_float32(features) - centre
        means = at_least_float32(means) - centre.unsqueeze(-2)
        # -|e - E|^2 / 2 = e.E - |E|^2 / 2 - |e|^2 / 2, and the last term is the same for all codes.
        logits = affine(features, means, -means.square().sum(-1) / 2)  # (..., K)
        return logits.log_softmax(-1)


def log_responsibilities(features: Tensor, codebook: Codebook) -> Tensor:
    """Log-responsibility of each code for the features: Eq. (6), and Eq. (7) for the prior.

    The codebook is read as a mixture of K equally likely Gaussians, each with its own variance.
    With variances fixed at 1 this is Eq. (2).

    Args:
        features: embeddings e, (..., D), unbounded.
        codebook: means (K, D), log_variances (K,), (K, D) or None, and their normaliser.

    Returns:
        (..., K), in nats; its exponential sums to 1 over K. float32, or float64 like the features.

    Raises:
        ValueError: features and codebook disagree on D.
    """
    # bfloat16 would cost several nats here: float32 at least.
    with full_precision(features.device):
        terms = codebook.terms
        if terms is None:
            return log_relaxed(features, codebook)
        features = at_least_float32(codebook.split(features)) - terms.centre
        squares = features.square()
        if codebook.covariance != "diagonal":
            squares = squares.sum(-1, keepdim=True)
        features = torch.cat([features, squares], dim=-1)
        return affine(features, terms.weights, terms.biases).log_softmax(-1)

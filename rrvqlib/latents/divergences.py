"""KL divergences in closed form."""

import math

from torch import Tensor


def categorical_kl(log_posterior: Tensor, log_prior: Tensor) -> Tensor:
    """KL(q || p) of categorical distributions given their log-probabilities: (..., K) -> (...).

    Always of the categorical probabilities, never of Concrete densities, whose KL is another
    quantity and two orders of magnitude larger.
    """
    return (log_posterior.exp() * (log_posterior - log_prior)).sum(-1)


def uniform_kl(log_posterior: Tensor) -> Tensor:
    """KL(q || 1 / K) of categorical distributions: log-probabilities (..., K) -> (...) nats."""
    return math.log(log_posterior.shape[-1]) + (log_posterior.exp() * log_posterior).sum(-1)


def gaussian_kl(
    posterior_mean: Tensor, posterior_log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor
) -> Tensor:
    """KL of Gaussians with independent coordinates, summed over the last: (..., D) -> (...)."""
    variance_ratio = (2 * (posterior_log_std - prior_log_std)).exp()
    shift = ((posterior_mean - prior_mean) * (-prior_log_std).exp()).square()
    return ((variance_ratio + shift - 1) / 2 + prior_log_std - posterior_log_std).sum(-1)

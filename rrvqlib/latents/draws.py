"""Log-probabilities -> codes: categorical, Gumbel-softmax, straight-through, temperature."""

import torch
from torch import Tensor

from rrvqlib.latents.codebook import chosen_means
from rrvqlib.numerics import full_precision

COLDEST = 1e-36  # divided by less, log-probabilities of float32 overflow and all codes look alike


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape, type and device of `like`.

    As -log of an exponential: -log(-log(u)) is infinite when a float32 uniform returns 0,
    and it does.
    """
    return torch.empty_like(like, requires_grad=False).exponential_().log_().neg_()


def categorical(log_probabilities: Tensor, temperature: float = 1.0) -> Tensor:
    """Codes drawn from a categorical distribution, by the Gumbel-max trick.

    Args:
        log_probabilities: (..., K), in nats.
        temperature: of the distribution; 0, or below `COLDEST`, gives the most probable code.

    Returns:
        int64 (...).
    """
    if temperature < COLDEST:
        return log_probabilities.argmax(-1)
    return (log_probabilities / temperature + gumbel_noise(log_probabilities)).argmax(-1)


def gumbel_softmax(log_probabilities: Tensor, temperature: float | Tensor) -> Tensor:
    """Soft one-hot samples (Jang et al. 2017; Maddison et al. 2017).

    Args:
        log_probabilities: (..., K), in nats.
        temperature: of the relaxation; near 0 the samples become one-hot.

    Returns:
        (..., K), sums to 1 over K.
    """
    return ((log_probabilities + gumbel_noise(log_probabilities)) / temperature).softmax(-1)


def mixtures(weights: Tensor, means: Tensor) -> Tensor:
    """Means weighted and summed: (..., K), (K, D) -> (..., D); always in full precision.

    With G codebooks, each by itself: (..., G, K), (G, K, D / G) -> (..., G, D / G).
    """
    with full_precision(weights.device):
        if means.ndim == 2:
            return weights @ means
        return torch.einsum("...gk,gkd->...gd", weights, means)


def soft_vectors(
    log_probabilities: Tensor, means: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Mixtures of code vectors, weighted by a Gumbel-softmax sample.

    Args:
        log_probabilities: (..., K), in nats.
        means: (K, D), or (G, K, D / G) of G codebooks.
        temperature: of the relaxation.

    Returns:
        vectors (..., D), and the codes that weigh most, int64 (...).
    """
    weights = gumbel_softmax(log_probabilities, temperature)
    return mixtures(weights, means), weights.argmax(-1)


def straight_through_vectors(
    log_probabilities: Tensor, means: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors of sampled codes, with the gradient of the soft sample for the probabilities.

    The value is that of a true categorical sample at every temperature. The codebook gets the
    gradient of the code that was used.

    Args:
        log_probabilities: (..., K), in nats.
        means: (K, D), or (G, K, D / G) of G codebooks.
        temperature: of the relaxation whose gradient is used.

    Returns:
        vectors (..., D), and their codes, int64 (...).
    """
    weights = gumbel_softmax(log_probabilities, temperature)
    codes = weights.argmax(-1)
    relaxed = mixtures(weights, means.detach())
    return chosen_means(means, codes) + (relaxed - relaxed.detach()), codes


def reinmax_vectors(
    log_probabilities: Tensor, means: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors of sampled codes, with ReinMax's gradient (Liu et al. 2023, Algorithm 2).

    Straight-through takes f' at the code drawn for the slope from the mean to it, Euler's method;
    ReinMax takes the average of the slopes at both ends, Heun's: at temperature 1 the gradient is
    right in the mean where f is quadratic in the code vector's weights.

    Args:
        log_probabilities: (..., K), in nats.
        means: (K, D), or (G, K, D / G) of G codebooks.
        temperature: of the probabilities that are averaged with the draw.

    Returns:
        vectors (..., D), and their codes, int64 (...).
    """
    codes = categorical(log_probabilities.detach())
    # Not one_hot, which reads the codes on the host to check them.
    drawn = torch.zeros_like(log_probabilities).scatter(-1, codes.unsqueeze(-1), 1.0)
    between = (drawn + (log_probabilities.detach() / temperature).softmax(-1)) / 2
    # Its value is `between`, its derivative that of a softmax there.
    moved = (between.log() + (log_probabilities - log_probabilities.detach())).softmax(-1)
    weights = 2 * moved - log_probabilities.softmax(-1) / 2
    relaxed = mixtures(weights, means.detach())
    return chosen_means(means, codes) + (relaxed - relaxed.detach()), codes


RELAXATIONS = {
    "straight-through": straight_through_vectors,
    "reinmax": reinmax_vectors,
    "soft": soft_vectors,
}

"""Unbiased gradients through discrete samples, as surrogates: differentiate the value returned.

M samples of every image come first, (M, B). Nothing here needs a relaxation.
"""

import math

import torch
from torch import Tensor


def leave_one_out(f: Tensor, log_q: Tensor) -> Tensor:
    """The score function's part of the gradient of E_q f, with the mean of the others as baseline.

    Args:
        f: (M, B) nats, the function at each sample; taken as a number.
        log_q: (M, B) nats, of each sample, with gradient. M is 2 or more.

    Returns:
        (B,), worth nothing itself; its gradient is an unbiased estimate of sum_z f(z) grad q(z).

    Raises:
        ValueError: there is only one sample.
    """
    M = _samples(f)
    f = f.detach()
    others = (f.sum(0) - f) / (M - 1)
    return ((f - others) * log_q).mean(0)


def vimco(log_weights: Tensor, log_q: Tensor) -> Tensor:
    """The importance-weighted bound of M samples, with the gradient of Mnih and Rezende (2016).

    Sample j is credited with what the bound gains by it: the bound minus the one in which its
    weight is the geometric mean of the others'.

    Args:
        log_weights: (M, B) nats, log p(x, z) - log q(z | x), with gradient.
        log_q: (M, B) nats, of each sample, with gradient. M is 2 or more.

    Returns:
        The bound, (B,) nats; its gradient is unbiased for the gradient of the bound's mean.

    Raises:
        ValueError: there is only one sample.
    """
    M = _samples(log_weights)
    bound = log_weights.logsumexp(0) - math.log(M)  # (B,)
    with torch.no_grad():
        geometric = (log_weights.sum(0) - log_weights) / (M - 1)  # (M, B)
        own = torch.eye(M, dtype=torch.bool, device=log_weights.device).unsqueeze(-1)
        replaced = torch.where(own, geometric.unsqueeze(1), log_weights.unsqueeze(0))  # (M, M, B)
        credit = bound - (replaced.logsumexp(1) - math.log(M))  # (M, B)
    score = (credit * log_q).sum(0)
    return bound + (score - score.detach())


def _samples(values: Tensor) -> int:
    if len(values) < 2:
        raise ValueError("one sample has no others to be compared with: M must be 2 or more")
    return len(values)

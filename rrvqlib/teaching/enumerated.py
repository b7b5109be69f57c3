"""A one-layer discrete model so small that all of its codes can be tried, one after the other."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from rrvqlib.latents.base import channels_last
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.models.one_layer import OneLayerVAE


@torch.no_grad()
def enumerate_codes(model: OneLayerVAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """The likelihood and the posterior of every combination of codes.

    Args:
        model: a relaxed VQ-VAE of M latent variables with K codes each; K^M should be small.
        images: uint8 (N, 3, S, S).

    Returns:
        log p(x | z) and log q(z | x) in float64 nats, each (N, K^M). The combinations stand in
        the order of `torch.cartesian_prod`.
    """
    latent, grid = cast(RelaxedLatent, model.latent), model.settings.pyramid[0]
    M, K = grid**2, len(latent.codebook.means)
    codes = torch.cartesian_prod(*[torch.arange(K)] * M)  # (K^M, M)
    parameters = model.decoder(latent.lookup(codes.view(-1, grid, grid, 1)))
    log_likelihood = torch.stack(
        [model.likelihood.log_prob(x.expand(len(codes), -1, -1, -1), parameters) for x in images]
    )
    features = channels_last(model.encode(images)).flatten(0, 2)
    log_q = log_responsibilities(features, latent.codebook).view(-1, M, K)
    log_q = log_q.double().log_softmax(-1)  # sums to 1 in float64 too
    log_posterior = torch.stack([log_q[:, m, codes[:, m]] for m in range(M)]).sum(0)
    return log_likelihood.double(), log_posterior


def exact_iw_2(log_weights: Tensor, log_posterior: Tensor) -> Tensor:
    """The bound of two importance samples, over all pairs of combinations.

    Args:
        log_weights: log p(x, z) - log q(z | x) of all n combinations, (N, n) nats.
        log_posterior: log q(z | x) of the same, (N, n) nats.

    Returns:
        (N,) nats.
    """
    bounds = []
    for weight, log_q in zip(log_weights, log_posterior, strict=True):
        pairs = torch.logaddexp(weight[:, None], weight[None, :]) - math.log(2)
        bounds.append(((log_q[:, None] + log_q[None, :]).exp() * pairs).sum())
    return torch.stack(bounds)

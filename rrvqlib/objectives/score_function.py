"""Codes without a relaxation: unbiased gradients from several draws of every image.

`leave_one_out` and `vimco` are surrogates: differentiate the value that they return. J draws of
every image come first, (J, B). `leave_one_out_terms` and `vimco_terms` are the objectives, for
models with one layer of codes; scored are these models like every other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rrvqlib.latents.base import of_codes
from rrvqlib.latents.divergences import categorical_kl
from rrvqlib.latents.draws import categorical
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.objectives.elbo import ElboTerms
from rrvqlib.settings.objectives import ScoreFunctionSettings

if TYPE_CHECKING:
    from rrvqlib.models.one_layer import OneLayerVAE


def leave_one_out(f: Tensor, log_q: Tensor) -> Tensor:
    """The score function's part of the gradient of E_q f, with the mean of the others as baseline.

    Args:
        f: (J, B) nats, the function at each sample; taken as a number.
        log_q: (J, B) nats, of each sample, with gradient. J is 2 or more.

    Returns:
        (B,), worth nothing itself; its gradient is an unbiased estimate of sum_z f(z) grad q(z).

    Raises:
        ValueError: there is only one sample.
    """
    J = _samples(f)
    f = f.detach()
    others = (f.sum(0) - f) / (J - 1)
    return ((f - others) * log_q).mean(0)


def vimco(log_weights: Tensor, log_q: Tensor) -> Tensor:
    """The importance-weighted bound of J samples, with the gradient of Mnih and Rezende (2016).

    Sample j is credited with what the bound gains by it: the bound minus the one in which its
    weight is the geometric mean of the others'.

    Args:
        log_weights: (J, B) nats, log p(x, z) - log q(z | x), with gradient.
        log_q: (J, B) nats, of each sample, with gradient. J is 2 or more.

    Returns:
        The bound, (B,) nats; its gradient is unbiased for the gradient of the bound's mean.

    Raises:
        ValueError: there is only one sample.
    """
    J = _samples(log_weights)
    bound = log_weights.logsumexp(0) - math.log(J)  # (B,)
    with torch.no_grad():
        geometric = (log_weights.sum(0) - log_weights) / (J - 1)  # (J, B)
        own = torch.eye(J, dtype=torch.bool, device=log_weights.device).unsqueeze(-1)
        replaced = torch.where(own, geometric.unsqueeze(1), log_weights.unsqueeze(0))  # (J, J, B)
        credit = bound - (replaced.logsumexp(1) - math.log(J))  # (J, B)
    score = (credit * log_q).sum(0)
    return bound + (score - score.detach())


def _samples(values: Tensor) -> int:
    if len(values) < 2:
        raise ValueError("one sample has no others to be compared with: J must be 2 or more")
    return len(values)


class Draws(NamedTuple):
    """J draws of the codes of every image.

    Attributes:
        log_likelihood, log_p, log_q: (J, B) nats, of the image and of its codes.
        kl: (B, H, W) nats, of posterior and prior.
        codes: of the first draw, (B, H, W, G).
    """

    log_likelihood: Tensor
    log_p: Tensor
    log_q: Tensor
    kl: Tensor
    codes: Tensor


def draw_codes(model: OneLayerVAE, images: Tensor) -> Draws:
    """Draw every position's code J times, and decode.

    Args:
        model: one layer of relaxed codes, and `num_samples` in its objective.
        images: uint8 (B, c, S, S).
    """
    latent, objective = model.latent, model.settings.objective
    assert isinstance(latent, RelaxedLatent)
    assert isinstance(objective, ScoreFunctionSettings)
    B, J = len(images), objective.num_samples
    log_q = latent.log_posterior(model.encode(images))  # (B, H, W, G, K)
    log_p = latent.log_prior(model.prior(B))
    with torch.no_grad():
        codes = categorical(log_q.expand(J, *log_q.shape))  # (J, B, H, W, G)
    parameters = model.decoder(latent.lookup(codes.flatten(0, 1)))
    log_likelihood = model.likelihood.log_prob(images.repeat(J, 1, 1, 1), parameters).view(J, B)
    kl = categorical_kl(log_q, log_p).sum(-1)
    of_p, of_q = (
        of_codes(table.expand(J, *table.shape), codes).flatten(2).sum(2) for table in (log_p, log_q)
    )
    return Draws(log_likelihood, of_p, of_q, kl, codes[0])


def leave_one_out_terms(model: OneLayerVAE, images: Tensor) -> ElboTerms:
    """The ELBO, its KL in closed form, its likelihood's gradient by REINFORCE with leave-one-out.

    The baseline is that of Kool et al. (2019).
    """
    draws = draw_codes(model, images)
    score = leave_one_out(draws.log_likelihood, draws.log_q)
    log_likelihood = draws.log_likelihood.mean(0) + (score - score.detach())
    return ElboTerms(log_likelihood, (draws.kl,), codes=(draws.codes,))


def vimco_terms(model: OneLayerVAE, images: Tensor) -> ElboTerms:
    """The importance-weighted bound of J samples (Mnih and Rezende 2016).

    The bound has no separate KL: `kl_maps` report it without a gradient, and `log_likelihood` is
    the bound with the KL added, so that their difference is the bound. While the KL's weight warms
    up, the loss is lower by the share of the KL that is left out; its gradient is the bound's.
    """
    draws = draw_codes(model, images)
    kl = draws.kl.detach()
    bound = vimco(draws.log_likelihood + draws.log_p - draws.log_q, draws.log_q)
    return ElboTerms(bound + kl.flatten(1).sum(1), (kl,), codes=(draws.codes,))

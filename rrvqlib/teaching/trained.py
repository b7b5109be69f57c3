"""A trained hierarchy and images -> where its embeddings lie among the codes, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rrvqlib.latents.base import channels_last
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.likelihoods.base import pixels_to_reals
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.teaching.theory import entropy


@dataclass(frozen=True)
class CodeGaps:
    """Embeddings of one layer, seen from its codes; every tensor is (N,), one entry a position.

    Distances are in standard deviations of the nearest code, the unit of Theorem 1, whose
    variances are 1.

    Attributes:
        distance: d, to the nearest code.
        separation: delta, how much further away the second nearest code is.
        log_ratio: from the likeliest code to the runner-up, in nats.
        entropy: of the responsibilities, in nats.
        nearest_wins: whether the nearest code is the likeliest.
    """

    distance: Tensor
    separation: Tensor
    log_ratio: Tensor
    entropy: Tensor
    nearest_wins: Tensor


def code_gaps(latent: RelaxedLatent, embeddings: Tensor) -> CodeGaps:
    """Where embeddings (B, D, H, W) lie among the codes of one group; N = B H W.

    Variances are one number a code, or all 1.
    """
    e, codebook = channels_last(embeddings).flatten(0, 2), latent.codebook
    log_p = latent.log_posterior(embeddings).flatten(0, 3)  # (N, K); Eq. (6) and (7) are one
    distances, codes = torch.cdist(e, codebook.means).topk(2, largest=False)
    unit = torch.ones_like(distances[:, 0])
    if codebook.log_variances is not None:
        unit = (codebook.log_variances / 2).exp()[codes[:, 0]]
    likeliest, which = log_p.topk(2)
    return CodeGaps(
        distance=distances[:, 0] / unit,
        separation=(distances[:, 1] - distances[:, 0]) / unit,
        log_ratio=likeliest[:, 0] - likeliest[:, 1],
        entropy=entropy(log_p),
        nearest_wins=which[:, 0] == codes[:, 0],
    )


@torch.no_grad()
def gaps_of_layers(model: HierarchicalVAE, images: Tensor) -> list[tuple[CodeGaps, CodeGaps]]:
    """Prior and posterior of every layer, l = 1 first, along one draw from the posterior.

    Args:
        model: its layers are relaxed, with embedding priors.
        images: uint8 (B, 3, S, S).
    """
    features, state = model.encoder(pixels_to_reals(images)), model.decoder.top(len(images))
    found = []
    for layer, feature in zip(reversed(model.layers), reversed(features), strict=True):
        latent = cast(RelaxedLatent, layer.latent)
        prior, posterior = layer.prior(state), layer.posterior(feature, state)
        found.insert(0, (code_gaps(latent, prior), code_gaps(latent, posterior)))
        state = layer.decode(state, latent.draw(posterior, prior, None).vectors)
    return found

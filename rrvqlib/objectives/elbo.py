"""Log-likelihood and KL per layer -> the ELBO, the training loss, bits per dim."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", Tensor, float)


@dataclass(frozen=True)
class ElboTerms:
    """The parts of Eq. (5) for a batch of B images.

    Attributes:
        log_likelihood: (B,) nats per image.
        kl_maps: for each layer, l = 1 (nearest the pixels) first, (B, H_l, W_l): the KL of every
            latent variable, in nats.
        log_ratio: (B,) nats, log p(z) - log q(z | x) of the codes that were drawn; None where
            they are relaxed, as most are in training.
        vq_loss: (B,) nats, the codebook and commitment losses of the VQ-VAE, the Gaussian term of
            SQ-VAE; not part of the ELBO. None for every other model.
        codes: for each layer int64 (B, H_l, W_l, G); None where latents are continuous.
        prior_entropies: for each layer (B, H_l, W_l) nats, see `LatentDraw`; or None.
    """

    log_likelihood: Tensor
    kl_maps: tuple[Tensor, ...]
    log_ratio: Tensor | None = None
    vq_loss: Tensor | None = None
    codes: tuple[Tensor | None, ...] = ()
    prior_entropies: tuple[Tensor | None, ...] = ()

    @property
    def kl(self) -> Tensor:
        """Of each layer, (B, L) nats per image."""
        return torch.stack([kl.flatten(1).sum(1) for kl in self.kl_maps], dim=1)

    @property
    def elbo(self) -> Tensor:
        """(B,) nats per image, larger is better."""
        return self.log_likelihood - self.kl.sum(1)

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x) of the codes drawn, (B,) nats.

        Raises:
            ValueError: the draws were relaxed.
        """
        if self.log_ratio is None:
            raise ValueError("relaxed draws have no weight; call the model without a temperature")
        return self.log_likelihood + self.log_ratio


def bits_per_dim(log_probability: Number, dims: int) -> Number:
    """Nats of log-probability per image -> bits per dim, lower is better.

    The one place where units change; `dims` is c * H * W.
    """
    return -log_probability / (dims * math.log(2))


def training_loss(
    terms: ElboTerms,
    kl_weight: float | Tensor = 1.0,
    free_nats: float = 0.0,
    free_nats_group: str = "layer",
    batch_mean: Callable[[Tensor], Tensor] = lambda local: local,
) -> Tensor:
    """What training minimises, in nats per image: the negative ELBO, altered as asked.

    Args:
        terms: of a batch.
        kl_weight: weight of the KL, below 1 during warm-up.
        free_nats: KL below this costs as much as this and has no gradient (Kingma et al. 2016), in
            nats per image for a whole layer, or for each latent variable.
        free_nats_group: `layer` or `position`.
        batch_mean: averages a detached vector over the processes that share the batch, so that
            what is free does not depend on how many there are. (It does depend on the batch.)

    Returns:
        A scalar.
    """
    maps = [kl.mean(0) for kl in terms.kl_maps]
    groups = [kl if free_nats_group == "position" else kl.sum() for kl in maps]
    if free_nats > 0:
        # One vector of all layers: the processes speak to each other once.
        local = torch.cat([kl.detach().flatten() for kl in groups])
        means = batch_mean(local).split([kl.numel() for kl in groups])
        groups = [
            torch.where(mean.view_as(kl) > free_nats, kl, free_nats)
            for mean, kl in zip(means, groups, strict=True)
        ]
    loss = -terms.log_likelihood.mean() + kl_weight * sum(kl.sum() for kl in groups)
    return loss if terms.vq_loss is None else loss + terms.vq_loss.mean()


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log of the mean of k importance weights (Burda et al. 2016): (k, B) -> (B,) nats."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))

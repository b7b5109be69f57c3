"""RSQ-VAE's codes (Takida et al. 2024): each quantises what the former ones left over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rrvqlib.latents import draws
from rrvqlib.latents.base import Latent, LatentDraw, channels_first, channels_last, of_codes
from rrvqlib.latents.codebook import Codebook, chosen_means, nearest_codes
from rrvqlib.latents.divergences import uniform_kl
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.numerics import full_precision, total
from rrvqlib.settings.latents import ResidualSettings


class ResidualLatent(Latent):
    """G codes at every position, whose sum the decoder sees; uniform priors.

    Stage g has a codebook and a variance s_g of its own, and quantises r_g = e - sum_{h<g} z_h:
    q(z_g given z_{<g}, x) is the softmax of `-|r_g - E_k|^2 / 2 s_g`. The draws follow one another,
    so that no table of probabilities says all: this is no `DiscreteLatent`.

    The KL of a position is that of its stages given the codes drawn so far, the sum of
    log K less the entropy of each; its mean over draws is the KL of all G codes. As in SQ-VAE,
    training pays for a Gaussian variable around the sum of codes, whose variance is the sum of the
    variances, by a `vq_loss`. With one stage these are SQ-VAE's codes.

    Args:
        codebooks: one a stage, of K codes of size D with one variance.
        relaxation: a key of `draws.RELAXATIONS`, while training.
    """

    prior_size = 0

    def __init__(self, codebooks: Sequence[Codebook], relaxation: str = "straight-through"):
        super().__init__()
        self.codebooks = nn.ModuleList(codebooks)
        self.relaxation = relaxation
        self.values = codebooks[0].codebook_size
        self.vector_size = self.posterior_size = codebooks[0].embedding_dim

    @classmethod
    def from_settings(
        cls, settings: ResidualSettings, layer: int, *, learnt_prior: bool
    ) -> ResidualLatent:
        stages = range(settings.stages)
        books = [Codebook.from_settings(settings, layer, "shared") for _ in stages]
        return cls(books, settings.relaxation)

    @property
    def stages(self) -> list[Codebook]:
        """The first one's codebook first."""
        return cast(list[Codebook], list(self.codebooks))

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw one code after the other; relaxed draws, those of training, have the Gaussian term.

        Args:
            posterior: embeddings e, (B, D, H, W).
            prior: (B, 0, H, W).
            temperature: of relaxed draws; None for true ones.
        """
        with full_precision(posterior.device):
            left = channels_last(posterior).float()  # (B, H, W, D)
            kls, ratios, all_codes, parts = [], [], [], []  # of each stage
            for book in self.stages:
                log_q = log_responsibilities(left, book)  # (B, H, W, K)
                if temperature is None:
                    codes = draws.categorical(log_q)
                    vectors = chosen_means(book.means, codes)
                    ratios.append(-math.log(self.values) - of_codes(log_q, codes))
                else:
                    relaxed = draws.RELAXATIONS[self.relaxation]
                    vectors, codes = relaxed(log_q, book.means, temperature)
                kls.append(uniform_kl(log_q))
                all_codes.append(codes)
                parts.append(vectors)
                left = left - vectors
            vectors, codes = channels_first(total(parts)), torch.stack(all_codes, -1)
            kl = total(kls)
            if temperature is not None:
                vq_loss = left.square().flatten(1).sum(1) / (2 * self.variance)
                return LatentDraw(vectors, kl, codes, vq_loss=vq_loss)
            entropy = torch.full_like(kl, len(parts) * math.log(self.values))
            ratio = total(ratios).flatten(1).sum(1)
            return LatentDraw(vectors, kl, codes, ratio, prior_entropy=entropy)

    @property
    def variance(self) -> Tensor:
        """Of the sum of the stages' Gaussian variables, ()."""
        raw = [book.log_variances for book in self.stages]
        return total([part[0].exp() for part in raw if part is not None])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, H, W, G) -> the sums of their vectors, (B, D, H, W)."""
        pairs = zip(self.stages, codes.unbind(-1), strict=True)
        return channels_first(total([chosen_means(book.means, own) for book, own in pairs]))

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Sums of code vectors (B, D, H, W) drawn uniformly, at any temperature."""
        B, _, H, W = prior.shape
        shape = (B, H, W, len(self.codebooks))
        return self.lookup(torch.randint(self.values, shape, device=prior.device))

    def fast_parameters(self) -> Iterable[nn.Parameter]:
        return self.codebooks.parameters()

    def raw_log_variances(self) -> Iterable[nn.Parameter]:
        return [
            book.raw_log_variances for book in self.stages if book.raw_log_variances is not None
        ]

    def start_from(self, posterior: Tensor) -> None:
        """Set each stage's codes from what the nearest codes of the former ones leave over."""
        left = channels_last(posterior).flatten(0, 2).float()
        for book in self.stages:
            book.kmeans_(left)
            left = left - chosen_means(book.means, nearest_codes(left, book.means))

"""Priors learnt over the codes of a frozen model: draws under uniform priors -> draws under these.

One interface, `CodePrior`: `forward` replaces each draw's KL, `sample` gives the first stage's
codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rrvqlib.latents.base import DiscreteLatent, LatentDraw, channels_last, of_codes
from rrvqlib.latents.codebook import Codebook, CodebookLatent
from rrvqlib.latents.draws import categorical
from rrvqlib.latents.relaxed import RelaxedLatent
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.models.base import only
from rrvqlib.models.pixelcnn import GatedPixelCNN
from rrvqlib.nets.convolutions import Projection, ResidualStack, conv
from rrvqlib.settings.latents import (
    LATENTS,
    CodebookSettings,
    LearntPriorSettings,
    RelaxedSettings,
)
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.second_stages import GreedySettings, PixelCNNSettings

Symbols = list[DiscreteLatent]  # one at a position; of the first stage, l = 1 first


def under_prior(draw: LatentDraw, log_p: Tensor, codes: int) -> LatentDraw:
    """A draw whose prior was uniform, under another: KL' = KL - log K - log p(z).

    The entropy of the posterior stays exact; log p is that of the codes drawn.

    Args:
        draw: with unrelaxed codes.
        log_p: of its codes, (B, H, W) nats.
        codes: K.

    Raises:
        ValueError: the draw is relaxed.
    """
    if draw.log_ratio is None:
        raise ValueError("a relaxed draw has no probability under another prior")
    change = log_p + math.log(codes)
    ratio = draw.log_ratio + change.flatten(1).sum(1)
    kl = draw.kl - change
    return replace(draw, kl=kl, log_ratio=ratio, vq_loss=None, prior_entropy=None)


def true_codes(draw: LatentDraw) -> Tensor:
    """The codes (B, H, W, G) of a draw of symbols."""
    assert draw.codes is not None, "latents that are symbols draw codes"
    return draw.codes


class CodePrior(nn.Module, ABC):
    """A second stage: a prior over the codes (B, H, W, 1) of a frozen first one."""

    @property
    def latents(self) -> list[CodebookLatent]:
        """Of the layers that it adds above the first stage's."""
        return []

    @abstractmethod
    def forward(
        self, draws: list[LatentDraw], latents: Symbols, temperature: Tensor | None
    ) -> list[LatentDraw]:
        """Draws of all layers, l = 1 first, with the KL and `log_ratio` of this prior.

        Args:
            draws: of the first stage, true ones.
            latents: of the first stage.
            temperature: of relaxed draws of added layers; None for true ones.
        """

    @abstractmethod
    def sample(
        self, batch: int, latents: Symbols, temperature: float, kept: Sequence[Tensor]
    ) -> list[Tensor]:
        """Codes of the first stage's layers, l = 1 first.

        Args:
            batch: B.
            latents: of the first stage.
            temperature: of the prior; 0 takes its mode.
            kept: codes of the topmost layers of the whole, which are not drawn.
        """

    def fit_codebooks(self, draws: list[LatentDraw]) -> None:
        """Set codebooks of added layers from draws of the first stage."""


class PixelCNNPrior(CodePrior):
    """A PixelCNN for every grid of codes, conditioned on the grid above (VQ-VAE, VQ-VAE-2)."""

    def __init__(self, settings: ModelSettings, stage: PixelCNNSettings):
        super().__init__()
        self.pyramid = settings.pyramid
        K = [alphabet[1] for alphabet in settings.alphabets if alphabet]
        self.nets = nn.ModuleList(
            [
                GatedPixelCNN(k, stage.prior_channels, stage.prior_blocks, above)
                for k, above in zip(K, (*K[1:], 0), strict=True)
            ]
        )

    @property
    def _nets(self) -> list[GatedPixelCNN]:
        return cast(list[GatedPixelCNN], list(self.nets))

    def forward(
        self, draws: list[LatentDraw], latents: Symbols, temperature: Tensor | None
    ) -> list[LatentDraw]:
        codes = [true_codes(draw).squeeze(-1) for draw in draws]
        rows = zip(self._nets, draws, codes, [*codes[1:], None], latents, strict=True)
        return [
            under_prior(draw, net.log_prob(z, above), latent.values)
            for net, draw, z, above, latent in rows
        ]

    def sample(
        self, batch: int, latents: Symbols, temperature: float, kept: Sequence[Tensor]
    ) -> list[Tensor]:
        codes = [z.squeeze(-1) for z in kept]
        for layer in reversed(range(len(self.nets) - len(kept))):
            above = codes[0] if codes else None
            drawn = self._nets[layer].sample(batch, self.pyramid[layer], temperature, above)
            codes.insert(0, drawn)
        return [z.unsqueeze(-1) for z in codes]


class UnusedCodes(nn.Module):
    """HQA's code resetting: now and then the least used code joins the most used one.

    Every `every` training steps, a code chosen less often than `below` times the most chosen one
    moves to it, but for noise of standard deviation 0.01, and the counts start again (the
    constants of the authors' program, speechmatics/hqa).

    Args:
        codes: K.
    """

    every, below, noise = 20, 0.03, 0.01
    counts: Tensor
    steps: Tensor

    def __init__(self, codes: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Note the codes (B, H, W) of a training step."""
        counts = torch.zeros_like(self.counts)
        counts.index_add_(0, codes.flatten(), torch.ones_like(codes.flatten(), dtype=counts.dtype))
        if dist.is_available() and dist.is_initialized():  # one codebook for all processes
            dist.all_reduce(counts)
        self.counts += counts
        self.steps += 1

    @torch.no_grad()
    def move(self, means: Tensor) -> None:
        """Reset the least used code in `means` (K, D), where it is time; before a step's forward.

        (Afterwards would change numbers that the backward pass still needs.)
        """
        # Without a branch, which would wait for the GPU.
        time = (self.steps > 0) & (self.steps % self.every == 0)
        most, least = self.counts.argmax().view(1), self.counts.argmin().view(1)
        due = time & (self.counts.min() < self.below * self.counts.max())
        noise = self.noise * torch.randn_like(means[:1])
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(noise, src=0)
        moved = means.index_select(0, most) + noise
        means.index_copy_(0, least, torch.where(due, moved, means.index_select(0, least)))
        self.counts.mul_(~time)


class GreedyPrior(CodePrior):
    """A layer of relaxed codes above the first stage's, which they are decoded to (HQA).

    p(z_1 | z_2) is the responsibilities of the frozen codebook for a decoded embedding, so that
    the ELBO of z_1 is a bound on log p(z_1), and the whole a bound on log p(x).
    """

    def __init__(self, settings: ModelSettings, stage: GreedySettings):
        super().__init__()
        latent = settings.latent
        assert isinstance(latent, CodebookSettings), "settings are checked"
        lower, upper = settings.pyramid
        D, scale = latent.embedding_dim, settings.init_scale
        C, blocks, ratio = stage.prior_channels, stage.prior_blocks, lower // upper
        self.side = upper
        self.encoder = nn.Sequential(
            conv(D, C),
            ResidualStack(C, blocks, 1 / ratio, transposed=False, init_scale=scale),
            Projection(C, D, 0, 1, 1.0),
        )
        self.latent = relaxed_latent(latent)
        self.unused = UnusedCodes(self.latent.values)
        self.decoder = nn.Sequential(
            conv(D, C),
            ResidualStack(C, blocks, ratio, transposed=True, init_scale=scale),
            Projection(C, D, 0, 1, scale),
        )

    @property
    def latents(self) -> list[CodebookLatent]:
        return [self.latent]

    def log_prob(self, vectors: Tensor, codebook: Codebook) -> Tensor:
        """Upper code vectors -> log p(z_1 | z_2) of all codes of the lower codebook.

        Args:
            vectors: (B, D, h, w).
            codebook: of the lower layer.

        Returns:
            (B, H, W, 1, K) nats.
        """
        return log_responsibilities(channels_last(self.decoder(vectors)), codebook).unsqueeze(-2)

    def forward(
        self, draws: list[LatentDraw], latents: Symbols, temperature: Tensor | None
    ) -> list[LatentDraw]:
        (lower,), (latent,) = draws, only(CodebookLatent, latents)
        if self.training:
            self.unused.move(self.latent.codebook.means)
        posterior = self.encoder(lower.vectors)
        no_parameters = posterior[:, :0]
        upper = self.latent.draw(posterior, no_parameters, temperature)
        if self.training:
            self.unused.count(true_codes(upper))
        table = self.log_prob(upper.vectors, latent.codebook)
        log_p = of_codes(table, true_codes(lower)).squeeze(-1)
        lower = under_prior(lower, log_p, latent.values)
        if temperature is not None:  # the upper draw is relaxed: there is no weight to report
            lower = replace(lower, log_ratio=None)
        return [lower, upper]

    def sample(
        self, batch: int, latents: Symbols, temperature: float, kept: Sequence[Tensor]
    ) -> list[Tensor]:
        if len(kept) == 2:
            return list(kept[:1])
        device = self.latent.codebook.means.device
        no_parameters = torch.empty(batch, 0, self.side, self.side, device=device)
        upper = (
            self.latent.lookup(kept[0]) if kept else self.latent.sample(no_parameters, temperature)
        )
        (latent,) = only(CodebookLatent, latents)
        table = self.log_prob(upper, latent.codebook)
        return [categorical(table, temperature)]

    def fit_codebooks(self, draws: list[LatentDraw]) -> None:
        self.latent.start_from(self.encoder(draws[0].vectors))


def relaxed_latent(latent: CodebookSettings) -> RelaxedLatent:
    """The relaxed latents of a greedy layer; above nearest codes, their defaults."""
    if not isinstance(latent, LearntPriorSettings):
        latent = RelaxedSettings(
            codebook_size=latent.codebook_size,
            embedding_dim=latent.embedding_dim,
            codebook_init=latent.codebook_init,
        )
    kind = LATENTS[latent.kind].load()
    return kind.from_settings(latent, 1, learnt_prior=False)

"""Priors learnt over the codes of a frozen model: draws under uniform priors -> draws under these.

One interface: `forward(draws, latents, temperature)` replaces each draw's KL, and
`sample(batch, latents, temperature, kept)` gives the first stage's codes.
"""

import math
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rrvqlib import sampling
from rrvqlib.configs import ModelConfig
from rrvqlib.convolutions import Projection, ResidualStack, conv
from rrvqlib.latents import CodebookLatent, LatentDraw, channels_last
from rrvqlib.models.base import codebook_latent
from rrvqlib.responsibilities import log_responsibilities
from rrvqlib.rivals.pixelcnn import GatedPixelCNN


def under_prior(draw: LatentDraw, log_p: Tensor, codes: int) -> LatentDraw:
    """A draw whose prior was uniform, under another: KL' = KL - log K - log p(z).

    The entropy of the posterior stays exact; log p is that of the codes drawn.

    Args:
        draw: with unrelaxed codes.
        log_p: of its codes, (B, H, W) nats.
        codes: K.
    """
    change = log_p + math.log(codes)
    ratio = draw.log_ratio + change.flatten(1).sum(1)
    kl = draw.kl - change
    return replace(draw, kl=kl, log_ratio=ratio, penalty=None, prior_entropy=None)


class PixelCNNPrior(nn.Module):
    """A PixelCNN for every grid of codes, conditioned on the grid above (VQ-VAE, VQ-VAE-2)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.pyramid = config.pyramid
        K = config.codes_per_layer
        above = (*K[1:], 0)
        self.nets = nn.ModuleList(
            [
                GatedPixelCNN(k, config.prior_channels, config.prior_blocks, up)
                for k, up in zip(K, above, strict=True)
            ]
        )

    def forward(
        self, draws: list[LatentDraw], latents: list[nn.Module], temperature: Tensor | None
    ) -> list[LatentDraw]:
        """Draws of all layers, l = 1 first, with the KL and `log_ratio` of this prior."""
        above = [*(draw.codes for draw in draws[1:]), None]
        return [
            under_prior(draw, net.log_prob(draw.codes, up), len(latent.codebook.means))
            for net, draw, up, latent in zip(self.nets, draws, above, latents, strict=True)
        ]

    def sample(
        self, batch: int, latents: list[nn.Module], temperature: float, kept: list[Tensor]
    ) -> list[Tensor]:
        """Codes of all layers, l = 1 first, those of the topmost layers given as `kept`."""
        codes = list(kept)
        for layer in reversed(range(len(self.nets) - len(kept))):
            above = codes[0] if codes else None
            drawn = self.nets[layer].sample(batch, self.pyramid[layer], temperature, above)
            codes.insert(0, drawn)
        return codes


class UnusedCodes(nn.Module):
    """HQA's code resetting: now and then the least used code joins the most used one.

    Every `every` training steps, a code chosen less often than `below` times the most chosen one
    moves to it, but for noise of standard deviation 0.01, and the counts start again (the
    constants of the authors' program, speechmatics/hqa).

    Args:
        codes: K.
    """

    every, below, noise = 20, 0.03, 0.01

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


class GreedyPrior(nn.Module):
    """A layer of relaxed codes above the first stage's, which they are decoded to (HQA).

    p(z_1 | z_2) is the responsibilities of the frozen codebook for a decoded embedding, so that
    the ELBO of z_1 is a bound on log p(z_1), and the whole a bound on log p(x).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        lower, upper = config.pyramid
        D, C, scale = config.code_size, config.prior_channels, config.init_scale
        blocks, ratio = config.prior_blocks, lower // upper
        self.side = upper
        self.encoder = nn.Sequential(
            conv(D, C),
            ResidualStack(C, blocks, 1 / ratio, False, scale),
            Projection(C, D, 0, 1, 1.0),
        )
        self.latent = codebook_latent(config, 1, "uniform")
        self.unused = UnusedCodes(len(self.latent.codebook.means))
        self.decoder = nn.Sequential(
            conv(D, C), ResidualStack(C, blocks, ratio, True, scale), Projection(C, D, 0, 1, scale)
        )

    def log_prob(self, vectors: Tensor, lower: CodebookLatent) -> Tensor:
        """Upper code vectors (B, D, h, w) -> log p(z_1 | z_2) of all lower codes (B, H, W, K)."""
        return log_responsibilities(channels_last(self.decoder(vectors)), lower.codebook)

    def forward(
        self, draws: list[LatentDraw], latents: list[nn.Module], temperature: Tensor | None
    ) -> list[LatentDraw]:
        """The lower draw under p(z_1 | z_2), and the upper one."""
        (lower,), latent = draws, latents[0]
        if self.training:
            self.unused.move(self.latent.codebook.means)
        posterior = self.encoder(lower.vectors)
        no_parameters = posterior[:, :0]
        upper = self.latent(posterior, no_parameters, temperature)
        if self.training:
            self.unused.count(upper.codes)
        table = self.log_prob(upper.vectors, latent)
        log_p = table.gather(-1, lower.codes.unsqueeze(-1)).squeeze(-1)
        lower = under_prior(lower, log_p, table.shape[-1])
        if temperature is not None:  # the upper draw is relaxed: there is no weight to report
            lower = replace(lower, log_ratio=None)
        return [lower, upper]

    def sample(
        self, batch: int, latents: list[nn.Module], temperature: float, kept: list[Tensor]
    ) -> list[Tensor]:
        """The first stage's codes, in a list; `kept` has those of the topmost layers, if any."""
        if len(kept) == 2:
            return kept[:1]
        device = self.latent.codebook.means.device
        no_parameters = torch.empty(batch, 0, self.side, self.side, device=device)
        upper = (
            self.latent.lookup(kept[0]) if kept else self.latent.sample(no_parameters, temperature)
        )
        return [sampling.categorical(self.log_prob(upper, latents[0]), temperature)]

"""Layers of bits, trained by the trapezoid rule.

Table 1 has a rival with binary latents, FouST (Pervez et al. 2020). This is not FouST: its text
was not at hand, and what it does beyond straight-through is not guessed here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rrvqlib.latents import draws
from rrvqlib.latents.base import (
    DiscreteLatent,
    LatentDraw,
    channels_first,
    channels_last,
    of_codes,
)
from rrvqlib.latents.divergences import categorical_kl
from rrvqlib.numerics import at_least_float32, full_precision
from rrvqlib.settings.latents import BinarySettings


def draw_bits(logits: Tensor) -> Tensor:
    """Random bits +-1 with P(+1) = sigmoid(logits)."""
    probabilities = torch.sigmoid(logits)
    # Not torch.bernoulli, which stops at NaN: a step with one is to be skipped, and counted.
    uniform = torch.rand(probabilities.shape, device=probabilities.device)
    return torch.where(uniform < probabilities, 1.0, -1.0)


def trapezoid_bits(logits: Tensor) -> Tensor:
    """Random bits +-1 with P(+1) = sigmoid(logits), and a derivative for the logits.

    The true gradient of E f in a logit is p (1 - p) (f(+1) - f(-1)). Straight-through multiplies
    f' at the bit drawn by 2 p (1 - p). Drawing the bit as if it were fair and reweighting
    multiplies it by 1 - P(bit), which puts p (1 - p) (f'(+1) + f'(-1)) in the mean: the trapezoid
    rule for the difference, exact where f is linear or quadratic in the bit, and never a large
    weight.

    Args:
        logits: any shape, in nats.

    Returns:
        Bits, of the same shape; their values are exactly +1 and -1.
    """
    bits = draw_bits(logits.detach())
    slope = torch.sigmoid(-bits * logits.detach())  # 1 - P(bit)
    return bits + slope * (logits - logits.detach())


class BinaryLatent(DiscreteLatent):
    """D independent bits at every position, each +1 (code 1) or -1 (code 0).

    Args:
        size: D.
        learnt_prior: whether networks give the prior's logits; otherwise bits are fair.
    """

    values = 2
    signs: Tensor

    def __init__(self, size: int, *, learnt_prior: bool):
        super().__init__()
        self.vector_size = self.posterior_size = self.symbols = size
        self.prior_size = size if learnt_prior else 0
        # A buffer: a model in double precision, as a codec's, looks up doubles.
        self.register_buffer("signs", torch.tensor([-1.0, 1.0]), persistent=False)

    @classmethod
    def from_settings(
        cls, settings: BinarySettings, layer: int, *, learnt_prior: bool
    ) -> BinaryLatent:
        return cls(settings.embedding_dim, learnt_prior=learnt_prior)

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Logits (B, D, H, W) -> (B, H, W, D, 2) nats."""
        return log_probabilities(channels_last(posterior))

    def log_prior(self, prior: Tensor) -> Tensor:
        """Logits (B, prior_size, H, W) -> (B, H, W, D, 2) nats."""
        if self.prior_size:
            return log_probabilities(channels_last(prior))
        return self.uniform(prior)

    def lookup(self, codes: Tensor) -> Tensor:
        return channels_first(self.signs[codes])

    def codes_of(self, vectors: Tensor) -> Tensor:
        return (channels_last(vectors) > 0).long()

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw bits; a temperature of None asks for `log_ratio` too, and has no other effect."""
        with full_precision(posterior.device):
            bits = trapezoid_bits(channels_last(posterior).float())
            codes = (bits.detach() > 0).long()
            log_q, log_p = self.log_posterior(posterior), self.log_prior(prior)
            kl = categorical_kl(log_q, log_p).sum(-1)
            vectors = channels_first(bits)
            if temperature is not None:
                return LatentDraw(vectors, kl, codes)
            ratio = (of_codes(log_p, codes) - of_codes(log_q, codes)).flatten(1).sum(1)
            entropy = -(log_p.exp() * log_p).sum((-2, -1))
            return LatentDraw(vectors, kl, codes, ratio, prior_entropy=entropy)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Bits (B, D, H, W) drawn from the prior; temperature 0 gives its mode."""
        return self.lookup(draws.categorical(self.log_prior(prior), temperature))


def log_probabilities(logits: Tensor) -> Tensor:
    """Logits (...) of +1 -> log-probabilities of -1 and +1, (..., 2) nats."""
    precise = at_least_float32(logits)
    return torch.stack((F.logsigmoid(-precise), F.logsigmoid(precise)), dim=-1)

"""Layers of bits, trained by the trapezoid rule.

Table 1 has a rival with binary latents, FouST (Pervez et al. 2020). This is not FouST: its text
was not at hand, and what it does beyond straight-through is not guessed here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrvqlib.latents import LatentDraw, channels_first, channels_last
from rrvqlib.numerics import full_precision


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


class BinaryLatent(nn.Module):
    """D independent bits at every position, each +1 or -1.

    Args:
        size: D.
        learnt_prior: whether networks give the prior's logits; otherwise bits are fair.
    """

    def __init__(self, size: int, learnt_prior: bool):
        super().__init__()
        self.vector_size = self.posterior_size = size
        self.prior_size = size if learnt_prior else 0

    def _prior(self, prior: Tensor) -> Tensor:
        if self.prior_size:
            return channels_last(prior).float()
        B, _, H, W = prior.shape
        return torch.zeros(B, H, W, self.vector_size, device=prior.device)

    def forward(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Draw bits; a temperature of None asks for `log_ratio` too.

        Args:
            posterior: logits (B, D, H, W).
            prior: logits (B, prior_size, H, W).
            temperature: has no other effect on bits.
        """
        with full_precision(posterior.device):
            q, p = channels_last(posterior).float(), self._prior(prior)
            bits = trapezoid_bits(q)
            # log P(+-1) = logsigmoid(+-logit)
            up, down = F.logsigmoid(q), F.logsigmoid(-q)
            kl = up.exp() * (up - F.logsigmoid(p)) + down.exp() * (down - F.logsigmoid(-p))
            vectors = channels_first(bits)
            if temperature is not None:
                return LatentDraw(vectors, kl.sum(-1))
            ratio = F.logsigmoid(bits * p) - F.logsigmoid(bits * q)
            return LatentDraw(vectors, kl.sum(-1), log_ratio=ratio.flatten(1).sum(1))

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Bits (B, D, H, W) drawn from the prior; temperature 0 gives its mode."""
        logits = self._prior(prior)
        if temperature == 0:
            return channels_first(torch.where(logits >= 0, 1.0, -1.0))
        return channels_first(draw_bits(logits / temperature))

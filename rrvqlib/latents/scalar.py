"""Finite scalar quantisation (Mentzer et al. 2023): a few numbers, each rounded; no codebook."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rrvqlib.latents.base import DiscreteLatent, LatentDraw, channels_first, channels_last
from rrvqlib.numerics import at_least_float32, full_precision
from rrvqlib.settings.latents import ScalarSettings

# Of a number's range, what is left out at both ends: at the ends themselves rounding would give
# one value more than there are levels (the constant of the paper's listing).
MARGIN = 1e-3


class ScalarLatent(DiscreteLatent):
    """D numbers at every position, each rounded to one of a few values: FSQ.

    The vectors that can come out are a grid, and their number is one symbol: of the product of the
    levels, the first number's digit counts ones. The posterior is sure of its symbol and the prior
    uniform, as in a VQ-VAE, whose codebook and auxiliary losses are gone.

    Args:
        levels: how many values each of the D numbers has.
    """

    prior_size = 0
    symbols = 1
    levels: Tensor
    radix: Tensor
    grid: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.vector_size = self.posterior_size = len(levels)
        self.values = math.prod(levels)
        # Buffers: on the model's device, and doubles where a codec's model has them.
        radix = [math.prod(levels[:number]) for number in range(len(levels))]
        for name, numbers in (("levels", levels), ("radix", radix)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32), persistent=False)
        states = torch.arange(self.values).unsqueeze(1)
        digits = states // torch.tensor(radix) % torch.tensor(levels)
        grid = (digits - self.half_width) / self.half_width
        self.register_buffer("grid", grid, persistent=False)

    @classmethod
    def from_settings(
        cls, settings: ScalarSettings, layer: int, *, learnt_prior: bool
    ) -> ScalarLatent:
        return cls(settings.levels)

    @property
    def half_width(self) -> Tensor:
        """Half of the levels, rounded down, (D,); by it whole numbers are divided."""
        return (self.levels / 2).floor()

    def bound(self, features: Tensor) -> Tensor:
        """Features (..., D), unbounded -> numbers whose rounding has as many values as levels.

        The shifted tanh of the paper's App. A.1. For 5 levels from -2 to 2; an even number has
        no middle, and 4 levels go from -2 to 1. The shift brings 0 close to 0 again.
        """
        half = (self.levels - 1) * (1 - MARGIN) / 2
        offset = (self.levels % 2 == 0) / 2
        return torch.tanh(features + torch.tan(offset / half)) * half - offset

    def number(self, rounded: Tensor) -> Tensor:
        """Whole numbers (..., D), from -half_width upwards -> their symbol, int64 (...)."""
        digits = rounded + self.half_width
        symbols = (digits * self.radix).sum(-1).round().long()
        # NaN becomes some huge number; a symbol it must be, or counting it would be an error.
        return symbols.clamp(0, self.values - 1)

    def log_posterior(self, posterior: Tensor) -> Tensor:
        """Features (B, D, H, W) -> (B, H, W, 1, K): 0 at their symbol, -inf elsewhere."""
        with full_precision(posterior.device):
            features = at_least_float32(channels_last(posterior))
            symbols = self.number(self.bound(features).round()).unsqueeze(-1)
            every = torch.arange(self.values, device=symbols.device)
            is_it = symbols.unsqueeze(-1) == every
            return torch.where(is_it, 0.0, -math.inf).to(features.dtype)

    def log_prior(self, prior: Tensor) -> Tensor:
        """Uniform: (B, 0, H, W) -> (B, H, W, 1, K) nats."""
        return self.uniform(prior)

    def lookup(self, codes: Tensor) -> Tensor:
        """Symbols (B, H, W, 1) -> vectors (B, D, H, W), of numbers in [-1, 1]."""
        return channels_first(self.grid[codes.squeeze(-1)])

    def codes_of(self, vectors: Tensor) -> Tensor:
        return self.number((channels_last(vectors) * self.half_width).round()).unsqueeze(-1)

    def draw(self, posterior: Tensor, prior: Tensor, temperature: Tensor | None) -> LatentDraw:
        """Round the features (B, D, H, W); `prior` and `temperature` play no part.

        The gradient passes the rounding as if it were not there, and the tanh as it is.
        """
        with full_precision(posterior.device):
            bounded = self.bound(channels_last(posterior).float())  # (B, H, W, D)
            rounded = bounded.detach().round()
            passed = rounded + (bounded - bounded.detach())  # exactly a whole number
            codes = self.number(rounded)
            # A one-hot posterior against a uniform prior: log K nats for every variable.
            kl = torch.full(codes.shape, math.log(self.values), device=codes.device)
            ratio = -kl.flatten(1).sum(1)
            vectors = channels_first(passed / self.half_width)
            return LatentDraw(vectors, kl, codes.unsqueeze(-1), ratio)

    def sample(self, prior: Tensor, temperature: float = 1.0) -> Tensor:
        """Vectors (B, D, H, W) drawn uniformly, at any temperature."""
        B, _, H, W = prior.shape
        return self.lookup(torch.randint(self.values, (B, H, W, 1), device=prior.device))

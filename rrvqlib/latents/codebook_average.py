"""How a VQ-VAE's codebook learns without a gradient: moving averages of the features."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rrvqlib.latents.codebook import Codebook


class CodebookAverage(nn.Module):
    """Means learnt as moving averages of the features that chose them (Oord et al. 2017, App. A).

    Counts are Laplace-smoothed. Also revives dead codes; their averages restart with them, or
    the next update would pull them back.

    Args:
        codebook: the codebook whose means are set; `learn` says whether the averages set them
            (`ema`) or only count usage, so that dead codes can be found (`loss`).
        decay: of the moving averages.
        dead_code_threshold: codes chosen less often than this, on average per batch, are moved to a
            random feature of the batch; 0 turns it off.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self, codebook: Codebook, decay: float, dead_code_threshold: float, *, learn: bool
    ):
        super().__init__()
        self.decay, self.dead_code_threshold, self.learn = decay, dead_code_threshold, learn
        # A fresh code counts as used, or every code would be restarted at the first step.
        self.fresh_count = max(1.0, 2 * dead_code_threshold)
        self.register_buffer("counts", torch.empty(len(codebook.means)))
        self.register_buffer("sums", torch.empty_like(codebook.means, requires_grad=False))
        self.reset(codebook)
        codebook.means.requires_grad_(not learn)

    @torch.no_grad()
    def reset(self, codebook: Codebook) -> None:
        """Start the averages at the codebook's means, after these were set from outside."""
        self.counts.fill_(self.fresh_count)
        self.sums.copy_(codebook.means * self.fresh_count)

    @torch.no_grad()
    def update(self, codebook: Codebook, features: Tensor, codes: Tensor) -> None:
        """One step with `features` (N, D) and the `codes` (N,) they chose."""
        features = features.float()
        K = len(self.counts)
        # Not bincount, nor a branch below: both would wait for the GPU.
        ones = torch.ones_like(codes, dtype=self.counts.dtype)
        counts = torch.zeros_like(self.counts).index_add_(0, codes, ones)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, features)
        candidates = features[torch.randint(len(features), (K,), device=features.device)]
        if dist.is_available() and dist.is_initialized():  # one codebook for all processes
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            dist.broadcast(candidates, src=0)
        finite = sums.isfinite().all()
        means = codebook.means
        counts = self.counts.lerp(counts, 1 - self.decay)
        sums = self.sums.lerp(sums, 1 - self.decay)
        if self.learn:
            epsilon, total = 1e-5, counts.sum()
            smoothed = (counts + epsilon) / (total + K * epsilon) * total
            means = sums / smoothed.unsqueeze(1)
        dead = counts < self.dead_code_threshold
        means = torch.where(dead.unsqueeze(1), candidates, means)
        sums = torch.where(dead.unsqueeze(1), candidates * self.fresh_count, sums)
        counts = torch.where(dead, self.fresh_count, counts)
        # Features that are not finite leave no trace: their step is going to be skipped.
        for old, new in ((codebook.means, means), (self.sums, sums), (self.counts, counts)):
            old.copy_(torch.where(finite, new, old))

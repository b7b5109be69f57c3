"""Quantisers: matrix product against broadcast, and against the package vector-quantize-pytorch."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import SIZES
from benchmarks.timing import Timing, in_turns
from rrvqlib.latents import NearestLatent
from rrvqlib.latents.codebook import Codebook, nearest_codes
from rrvqlib.latents.responsibilities import log_responsibilities


def broadcast_responsibilities(features: Tensor, codebook: Codebook) -> Tensor:
    """Eq. (6) written down naively: an (N, K, D) array of differences."""
    difference = features[:, None, :] - codebook.means[None]
    squared = difference.square().sum(-1)
    log_density = -squared / codebook.log_variances.exp() - codebook.log_normaliser
    return (log_density / 2).log_softmax(-1)


def responsibilities(size: str, repeats: int, device: str) -> list[Timing]:
    """Forward and backward of Eq. (6), two ways, after asserting that they agree."""
    N, K, D = SIZES[size]
    torch.manual_seed(0)
    codebook = Codebook(K, D).to(device)
    features = torch.randn(N, D, device=device, requires_grad=True)
    with torch.no_grad():
        codebook.raw_log_variances.normal_(std=0.2)
        two_ways = (
            f(features, codebook) for f in (log_responsibilities, broadcast_responsibilities)
        )
        torch.testing.assert_close(*two_ways, rtol=1e-4, atol=1e-3)

    def both_passes(function) -> None:
        codebook.zero_grad()
        features.grad = None
        function(features, codebook).square().mean().backward()

    return in_turns(
        {
            "rrvqlib, matrix product": lambda: both_passes(log_responsibilities),
            "naive broadcast": lambda: both_passes(broadcast_responsibilities),
        },
        repeats,
    )


def nearest(size: str, repeats: int, device: str) -> list[Timing]:
    """Nearest code and straight-through gradient, against vector-quantize-pytorch.

    Both look codes up, return quantised vectors and a commitment loss, and run backward; the
    codebooks are frozen in both, so that neither pays for learning it.

    Raises:
        ImportError: the package is not installed.
    """
    from vector_quantize_pytorch import VectorQuantize

    N, K, D = SIZES[size]
    torch.manual_seed(0)
    ours = NearestLatent(Codebook(K, D, "fixed"), "ema", 0.25, 0.99, 0.0).to(device).eval()
    peer = VectorQuantize(dim=D, codebook_size=K, commitment_weight=0.25).to(device).eval()
    with torch.no_grad():
        peer._codebook.embed.copy_(ours.codebook.means[None])
    side = int(N**0.5)
    features = torch.randn(1, D, side, side, device=device, requires_grad=True)
    none = features.new_empty(1, 0, side, side)

    def sequence() -> Tensor:  # the peer's layout: (B, N, D)
        return features.flatten(2).transpose(1, 2)

    with torch.no_grad():
        agree = nearest_codes(sequence()[0], ours.codebook.means) == peer(sequence())[1][0]
        assert agree.float().mean() > 0.999, "the two disagree on more than ties"

    def our_way() -> None:
        features.grad = None
        draw = ours.draw(features, none, None)
        (draw.vectors.square().mean() + draw.vq_loss.mean()).backward()

    def their_way() -> None:
        features.grad = None
        quantised, _, _ = peer(sequence())
        commitment = (sequence() - quantised.detach()).square().sum()
        straight = sequence() + (quantised - sequence()).detach()
        (straight.square().mean() + 0.25 * commitment).backward()

    return in_turns(
        {"rrvqlib, NearestLatent": our_way, "vector-quantize-pytorch": their_way}, repeats
    )

"""Quantisers: matrix product against broadcast, and against the package vector-quantize-pytorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import SIZES
from benchmarks.timing import Timing, in_turns
from rrvqlib.latents import NearestLatent, RelaxedLatent
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
    N, K, D = SIZES[size]
    torch.manual_seed(0)
    ours = NearestLatent(Codebook(K, D, "fixed"), "ema", 0.25, 0.99, 0.0).to(device).eval()
    peer = their_quantiser(size, groups=1).to(device).eval()
    with torch.no_grad():
        peer._codebook.embed.copy_(ours.codebook.means[None])
    features, none = feature_map(N, D, device)
    with torch.no_grad():
        agree = nearest_codes(rows(features)[0], ours.codebook.means) == peer(rows(features))[1][0]
        assert agree.float().mean() > 0.999, "the two disagree on more than ties"

    def our_way() -> None:
        features.grad = None
        draw = ours.draw(features, none, None)
        (draw.vectors.square().mean() + draw.vq_loss.mean()).backward()

    return in_turns(
        {
            "rrvqlib, NearestLatent": our_way,
            "vector-quantize-pytorch": lambda: nearest_step(lambda x: peer(x)[0], features),
        },
        repeats,
    )


def groups(size: str, repeats: int, device: str) -> list[Timing]:
    """The same with four codebooks, each for a quarter of the features.

    Raises:
        ImportError: the package is not installed.
    """
    N, K, D = SIZES[size]
    torch.manual_seed(0)
    codebook = Codebook(K, D, "fixed", groups=4).to(device).requires_grad_(requires_grad=False)
    peer = their_quantiser(size, groups=4).to(device).eval()
    with torch.no_grad():
        peer._codebook.embed.copy_(codebook.means)
    features, _ = feature_map(N, D, device)

    def quantised(x: Tensor) -> Tensor:
        return codebook.lookup(nearest_codes(codebook.split(x), codebook.means))

    with torch.no_grad():
        agree = quantised(rows(features)) == peer(rows(features))[0]
        assert agree.float().mean() > 0.999, "the two disagree on more than ties"
    return in_turns(
        {
            "rrvqlib, four codebooks": lambda: nearest_step(quantised, features),
            "vector-quantize-pytorch": lambda: nearest_step(lambda x: peer(x)[0], features),
        },
        repeats,
    )


def draws(size: str, repeats: int, device: str) -> list[Timing]:
    """Codes drawn at random, with a relaxation's gradient, against vector-quantize-pytorch.

    Not the same work: ours has a variance for every code and the KL to the prior, which the
    package does not know.

    Raises:
        ImportError: the package is not installed.
    """
    N, K, D = SIZES[size]
    torch.manual_seed(0)
    ours = RelaxedLatent(Codebook(K, D), "uniform").to(device)
    ours.codebook.requires_grad_(requires_grad=False)
    peer = their_quantiser(
        size, groups=1, stochastic_sample_codes=True, straight_through=True, freeze_codebook=True
    ).to(device)
    features, none = feature_map(N, D, device)
    temperature = torch.ones((), device=device)

    def our_way() -> None:
        features.grad = None
        draw = ours.draw(features, none, temperature)
        (draw.vectors.square().mean() + draw.kl.mean()).backward()

    def their_way() -> None:
        features.grad = None
        quantised, _, loss = peer(rows(features))
        (quantised.square().mean() + loss.sum()).backward()

    return in_turns(
        {"rrvqlib, RelaxedLatent": our_way, "vector-quantize-pytorch": their_way}, repeats
    )


def their_quantiser(size: str, groups: int, **options: bool) -> nn.Module:
    """The package's, of the same codes."""
    from vector_quantize_pytorch import VectorQuantize

    _, K, D = SIZES[size]
    several = {"heads": groups, "codebook_dim": D // groups, "separate_codebook_per_head": True}
    return VectorQuantize(
        dim=D,
        codebook_size=K,
        commitment_weight=0.25,
        rotation_trick=False,
        **(several if groups > 1 else {}),
        **options,
    )


def feature_map(N: int, D: int, device: str) -> tuple[Tensor, Tensor]:
    """Features of one square image, (1, D, S, S) with S^2 = N, and an empty prior beside them."""
    side = int(N**0.5)
    features = torch.randn(1, D, side, side, device=device, requires_grad=True)
    return features, features.new_empty(1, 0, side, side)


def rows(features: Tensor) -> Tensor:
    """The package's layout: (1, N, D)."""
    return features.flatten(2).transpose(1, 2)


def nearest_step(quantise: Callable[[Tensor], Tensor], features: Tensor) -> None:
    """Quantise, commit, and pass the gradient straight through."""
    features.grad = None
    quantised = quantise(rows(features)).detach()
    commitment = (rows(features) - quantised).square().sum()
    straight = rows(features) + (quantised - rows(features)).detach()
    (straight.square().mean() + 0.25 * commitment).backward()

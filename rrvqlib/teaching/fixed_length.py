"""The streams of Appendix F: every code takes log2 K bits, and a file holds nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.latents.base import DiscreteLatent
from rrvqlib.likelihoods.base import pixels_to_reals, reals_to_pixels
from rrvqlib.models.base import only
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.teaching import ans


def bits(model: HierarchicalVAE) -> list[int]:
    """What the codes of each layer take, l = 1 first: S^2 log2 K, with K a power of 2."""
    latents = only(DiscreteLatent, model.latents)
    return [
        side**2 * latent.symbols * (latent.values.bit_length() - 1)
        for side, latent in zip(model.settings.pyramid, latents, strict=True)
    ]


@torch.no_grad()
def to_file(model: HierarchicalVAE, image: Tensor) -> bytes:
    """The posterior's most probable codes of a uint8 image (1, 3, S, S), top layer last.

    They are the digits of one number, which is what `ans.push` does with K seats for K symbols.
    A 1 before the first digit says where it begins.
    """
    state, sent = model.decoder.top(1), []
    features = model.encoder(pixels_to_reals(image).to(state.dtype))
    latents = only(DiscreteLatent, model.latents)
    parts = list(zip(model.layers, latents, features, strict=True))
    for layer, latent, feature in reversed(parts):
        codes = latent.log_posterior(layer.posterior(feature, state)).argmax(-1)
        sent.append((codes.flatten().tolist(), range(latent.values + 1)))
        state = layer.decode(state, latent.lookup(codes))
    number = 1
    for codes, starts in reversed(sent):  # a stack: what is pushed last is read first
        for code in reversed(codes):
            number = ans.push(number, code, starts)
    return ans.to_bytes(number)


@torch.no_grad()
def from_file(model: HierarchicalVAE, file: bytes) -> Tensor:
    """What the receiver sees: uint8 (1, 3, S, S)."""
    number, state = int.from_bytes(file, "big"), model.decoder.top(1)
    latents = only(DiscreteLatent, model.latents)
    parts = zip(model.layers, latents, model.settings.pyramid, strict=True)
    for layer, latent, side in reversed(list(parts)):
        codes = []
        for _ in range(side**2 * latent.symbols):
            code, number = ans.pop(number, range(latent.values + 1))
            codes.append(code)
        grid = torch.tensor(codes).view(1, side, side, latent.symbols)
        state = layer.decode(state, latent.lookup(grid))
    return reals_to_pixels(model.likelihood.mean(model.decoder.head(state)))


def bits_in(file: bytes) -> int:
    """The bits of the codes in a file, counted: all that follow its first 1."""
    return int.from_bytes(file, "big").bit_length() - 1

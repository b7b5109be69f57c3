"""Lossless coding of one image with two likelihoods, and the entropy coder's share of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.timing import Timing, in_turns
from benchmarks.training import SETTINGS
from rrvqlib.coding.codec import Codec, Coded
from rrvqlib.coding.stack import NIBBLE, Stack
from rrvqlib.models import build
from rrvqlib.settings import changed


def ways(likelihood: str, image: torch.Tensor) -> tuple[Callable[[], Coded], Callable]:
    """Encoding and decoding of an image, to be called, with a fresh hierarchy."""
    torch.manual_seed(0)
    model = build(changed(SETTINGS.model, likelihood=likelihood))
    model.initialise(image)
    codec = Codec(model)
    coded = codec.encode(image)
    return lambda: codec.encode(image), lambda: codec.decode(coded.words, 1)


def coding(repeats: int) -> list[Timing]:
    """Encoding, decoding, and pushing and popping tables of the same sizes alone; on the CPU."""
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    encode, decode = ways("logistic-edge", image)
    encode_mixture, decode_mixture = ways("mixture", image)
    settings = SETTINGS.model
    sizes = [settings.latent.size(layer) for layer in range(settings.layers)]
    tables = [
        torch.rand(side**2, K).double().softmax(1)
        for side, K in zip(settings.pyramid, sizes, strict=True)
    ]
    pixels = torch.rand(image.numel(), NIBBLE).double().softmax(1)
    initial = encode().words  # as good as any bits, and enough of them

    def coder_alone() -> None:  # codes are popped and pushed, pixels pushed by halves
        stack = Stack(initial, initial=True)
        popped = [stack.pop(p) for p in tables]
        for half in (image % NIBBLE, image // NIBBLE):
            stack.push(half.flatten(), pixels)
        for symbols, p in zip(popped, tables, strict=True):
            stack.push(symbols, p)

    return in_turns(
        {
            "encode an image": encode,
            "decode an image": decode,
            "of that the coder alone": coder_alone,
            "encode with a mixture of 5": encode_mixture,
            "decode with it": decode_mixture,
        },
        repeats,
    )

"""Lossless coding of one image with two likelihoods, and the entropy coder's share of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.timing import Timing, in_turns
from benchmarks.training import CONFIG
from rrvqlib.coding.codec import NIBBLE, Codec, Stack
from rrvqlib.models import build


def ways(likelihood: str, image: torch.Tensor) -> tuple[Callable, Callable]:
    """Encoding and decoding of an image, to be called, with a fresh hierarchy."""
    torch.manual_seed(0)
    model = build(changed(CONFIG.model, likelihood=likelihood))
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
    config = CONFIG.model
    shapes = [(s**2, k) for s, k in zip(config.pyramid, config.codes_per_layer, strict=True)]
    tables = [torch.rand(n, k).double().softmax(1) for n, k in shapes]
    pixels = torch.rand(image.numel(), NIBBLE).double().softmax(1)
    initial = Codec(build(config))._initial_words()

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

"""Lossless coding of one image: the whole, and the entropy coder's share of it."""

from __future__ import annotations

import torch

from benchmarks.timing import Timing, in_turns
from benchmarks.training import CONFIG
from rrvqlib.codec import Codec, Stack
from rrvqlib.models import build


def coding(repeats: int) -> list[Timing]:
    """Encoding, decoding, and pushing and popping tables of the same sizes alone; on the CPU."""
    torch.manual_seed(0)
    model = build(CONFIG.model_config)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    model.initialise(image)
    codec = Codec(model)
    coded = codec.encode(image)
    sides, codes = CONFIG.model_config.pyramid, CONFIG.model_config.codes_per_layer
    shapes = [(side**2, k) for side, k in zip(sides, codes, strict=True)]
    tables = [torch.rand(n, k).double().softmax(1) for n, k in [*shapes, (image.numel(), 256)]]

    def coder_alone() -> None:  # codes are popped and pushed, pixels only pushed
        stack = Stack(codec._initial_words(), initial=True)
        popped = [stack.pop(p) for p in tables[:-1]]
        stack.push(image.flatten(), tables[-1])
        for symbols, p in zip(popped, tables, strict=False):
            stack.push(symbols, p)

    return in_turns(
        {
            "encode an image": lambda: codec.encode(image),
            "decode an image": lambda: codec.decode(coded.words, 1),
            "of that the coder alone": coder_alone,
        },
        repeats,
    )

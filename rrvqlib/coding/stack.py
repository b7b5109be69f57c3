"""Probabilities and symbols <-> one stack of bits; the entropy coder, ANS, is constriction's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrvqlib.errors import UserError
from rrvqlib.likelihoods.base import Channel
from rrvqlib.numerics import check_finite

FREQUENCY_BITS = 16
NIBBLE = 16
DECODE_REMEDY = "decode with the model and the versions that wrote the file"
FOREIGN = f"these bits do not decode with this model; {DECODE_REMEDY}"


def frequencies(p: Tensor) -> np.ndarray:
    """Probabilities (N, K) -> whole numbers (N, K), at least 1, that sum to 2^16.

    Both ends of a transmission code with these, so that they agree bit for bit. The price of
    rounding is at most -log2(1 - K / 2^16) bits a symbol.

    Raises:
        UserError: a probability is NaN.
    """
    check_finite("probabilities", p)
    total = 1 << FREQUENCY_BITS
    shares = p.double().contiguous().numpy()  # the coder reads memory, whatever the strides
    whole = 1 + (shares * (total - shares.shape[1])).astype(np.int64)
    rows = np.arange(len(shares))
    whole[rows, whole.argmax(1)] += total - whole.sum(1)
    return whole


def high_masses(channel: Channel) -> Tensor:
    """Of the 16 values that a channel's high four bits can take: (N, 16) for its N pixels."""
    edges = torch.arange(0, 257, NIBBLE)
    return channel.below(edges).diff(dim=0).flatten(1).T


def low_masses(channel: Channel, high: Tensor) -> Tensor:
    """Of the 16 values of the low four bits, (N, 16), given the high ones (N,)."""
    shape = channel.means[:, 0].shape
    edges = NIBBLE * high.view(1, *shape) + torch.arange(NIBBLE + 1).view(-1, 1, 1, 1)
    masses = channel.below(edges).diff(dim=0).flatten(1).T
    total = masses.sum(1, keepdim=True)
    # Far from all means nothing is left in float64 to divide: there any table will do.
    return torch.where(total > 0, masses / total, 1 / NIBBLE)


class Stack:
    """An ANS coder: what was pushed last is popped first.

    Args:
        words: uint32, what an earlier stack's `words` returned; none for an empty stack.
        initial: whether the words are arbitrary bits to start from instead.
    """

    def __init__(self, words: np.ndarray | None = None, *, initial: bool = False):
        words = None if words is None else words.astype(np.uint32)
        # An optional dependency: training and evaluation go without.
        try:
            constriction: Any = import_module("constriction")  # compiled, without types
        except ImportError:
            raise UserError(
                "compression needs constriction; run: pip install constriction"
            ) from None
        stream = constriction.stream
        AnsCoder = stream.stack.AnsCoder
        try:
            self._coder = AnsCoder() if words is None else AnsCoder(words, seal=initial)
        except ValueError:  # the last word is never 0
            raise UserError(FOREIGN) from None
        self._family = stream.model.Categorical(perfect=False)

    def push(self, symbols: Tensor, p: Tensor) -> None:
        """Push symbols (N,) with probabilities (N, K), the last symbol first."""
        if p.shape[1] == 1:  # they say nothing, and constriction knows no such table
            return
        probabilities = frequencies(p) / (1 << FREQUENCY_BITS)
        self._coder.encode_reverse(symbols.numpy().astype(np.int32), self._family, probabilities)

    def pop(self, p: Tensor) -> Tensor:
        """Pop symbols (N,) with probabilities (N, K), the first symbol first."""
        if p.shape[1] == 1:
            return torch.zeros(len(p), dtype=torch.int64)
        probabilities = frequencies(p) / (1 << FREQUENCY_BITS)
        return torch.from_numpy(self._coder.decode(self._family, probabilities)).long()

    def __len__(self) -> int:
        """Words of 32 bits."""
        return self._coder.num_words()

    @property
    def bits(self) -> int:
        """All that lie on it."""
        return self._coder.num_valid_bits()

    @property
    def position(self) -> tuple[int, int]:
        """Words below the coder's head, and the head; the same if nothing was popped in between."""
        return self._coder.pos()

    def words(self, *, initial: bool = False) -> np.ndarray:
        """Everything on the stack, uint32; `initial` undoes a start from arbitrary bits."""
        return self._coder.get_compressed(unseal=initial)

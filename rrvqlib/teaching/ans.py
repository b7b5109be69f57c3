"""Symbols <-> one natural number: the coder ANS on Python's integers, which have no limit.

A row of `starts` says how the numbers below its last entry are dealt out: symbol k owns those from
`starts[k]` up to, and without, `starts[k + 1]`. Its probability is their share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

PRECISION = 16  # probabilities are multiples of 2 ** -PRECISION


def push(state: int, symbol: int, starts: Sequence[int]) -> int:
    """The state after `symbol` was put on it: the state-th of the numbers that it owns.

    Args:
        state: a natural number.
        symbol: one of the K symbols, of a frequency above 0.
        starts: K + 1 whole numbers, from 0 up to the sum of the frequencies.
    """
    rows, seat = divmod(state, starts[symbol + 1] - starts[symbol])
    return rows * starts[-1] + starts[symbol] + seat


def pop(state: int, starts: Sequence[int]) -> tuple[int, int]:
    """The symbol on top of the state, and the state without it; undoes `push`."""
    row, slot = divmod(state, starts[-1])
    symbol = bisect_right(starts, slot) - 1
    return symbol, row * (starts[symbol + 1] - starts[symbol]) + slot - starts[symbol]


def to_starts(log_p: Tensor, precision: int = PRECISION) -> np.ndarray:
    """Probabilities rounded to whole numbers, none of them 0, and added up.

    Args:
        log_p: nats (..., K).
        precision: r; the frequencies of a row sum to 2^r.

    Returns:
        int64 (..., K + 1). What rounding leaves over goes to the most probable symbol.
    """
    p = log_p.double().exp().numpy()
    frequencies = 1 + np.floor(p * ((1 << precision) - p.shape[-1])).astype(np.int64)
    rest = (1 << precision) - frequencies.sum(-1, keepdims=True)
    best = p.argmax(-1)[..., None]
    most = np.take_along_axis(frequencies, best, -1)
    np.put_along_axis(frequencies, best, most + rest, -1)
    return np.concatenate([0 * rest, frequencies.cumsum(-1)], -1)


def push_all(state: int, symbols: Sequence[int], tables: np.ndarray) -> int:
    """Symbols (N,) under their tables (N, K + 1), the last first, so that it is popped last."""
    for symbol, starts in zip(symbols[::-1], tables[::-1].tolist(), strict=True):
        state = push(state, int(symbol), starts)
    return state


def pop_all(state: int, tables: Iterable[np.ndarray]) -> tuple[list[int], int]:
    """Undoes `push_all`: the symbols (N,) and the state below them."""
    symbols = []
    for starts in tables:
        symbol, state = pop(state, starts.tolist())
        symbols.append(symbol)
    return symbols, state


def to_bytes(state: int) -> bytes:
    """The state as a file, the highest byte first."""
    return state.to_bytes((state.bit_length() + 7) // 8, "big")

"""Entropies of categorical distributions in the worst case: Appendix D, exact and first order.

One near code and K - 1 far ones whose log-probability is lower by g (nats): with
x = (K - 1) exp(-g) the entropy is log(1 + x) + x g / (1 + x). Theorems 1 and 2 are this function at
two values of g. The checkers at the end let sympy prove such statements, or refuse them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import sympy

Array = np.ndarray | float


def rvq_log_ratio(distance: Array, separation: float = 1.0, variance: float = 1.0) -> Array:
    """g of Theorem 1: how far log-probabilities differ at distances d and d + delta, in nats.

    Args:
        distance: d, of the embedding from the near code.
        separation: delta, of the far codes from the near one, along the same line.
        variance: shared by all codes.
    """
    return (separation**2 / 2 + separation * np.asarray(distance, float)) / variance


def worst_case_entropy(log_ratio: Array, codes: int, near: Array = 1) -> Array:
    """Entropy of `near` tied likely codes and the rest, lower by `log_ratio`: exact, in nats.

    For near = 1 this is log1p(x) + x g / (1 + x), which neither overflows nor underflows before
    the entropy itself does.

    Args:
        log_ratio: g >= 0, in nats.
        codes: K.
        near: m, how many codes are tied for nearest; the paper's worst case is 1.
    """
    g = np.asarray(log_ratio, float)
    x = (codes - near) / near * np.exp(-g)
    return np.log(near) + np.log1p(x) + x * g / (1 + x)


def least_entropy(log_ratio: float, codes: int) -> tuple[float, int]:
    """Least entropy (nats) of K codes whose log-probabilities span `log_ratio`, and its m.

    Args:
        log_ratio: g > 0, in nats.
        codes: K; the search is over m = 1 ... K - 1 tied likely codes.
    """
    entropies = np.asarray(worst_case_entropy(log_ratio, codes, near=np.arange(1, codes)))
    return float(entropies.min()), 1 + int(entropies.argmin())


def first_order_entropy(log_ratio: Array, codes: int) -> Array:
    """(K - 1)(1 + g) exp(-g): Eq. (D.1) and (D.2), in nats."""
    g = np.asarray(log_ratio, float)
    return (codes - 1) * (1 + g) * np.exp(-g)


def crossover_distance(separation: float, offset: float = 0.0) -> float:
    """d* beyond which rVQ has the higher worst-case entropy of the two: Corollary 2.1, exactly.

    The softmax's logits are c and c + l with c + l = d. Since the entropy falls strictly in g, rVQ
    has more of it iff delta^2 / 2 + delta d < d - c.

    Args:
        separation: delta; below 1.
        offset: c.

    Raises:
        ValueError: separation is 1 or more: there is no such distance.
    """
    if separation >= 1:
        raise ValueError(f"separation is {separation}; a crossover exists below 1 only")
    return (separation**2 / 2 + offset) / (1 - separation)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of categorical distributions with these logits: (..., K) -> (...).

    The likeliest code is kept out of the sums, so that entropies far below the precision of
    1 + x come out right.
    """
    top, best = logits.max(-1, keepdim=True)
    gaps = top - logits  # >= 0
    weights = (-gaps).exp().scatter(-1, best, 0.0)
    x = weights.sum(-1)
    return x.log1p() + (weights * gaps).sum(-1) / (1 + x)


def first_coordinates(codebooks: int, codes: int, size: int, seed: int = 0) -> Tensor:
    """First coordinates of points uniform on the unit sphere: float32 (codebooks, codes).

    Of t only the law of (t + 1) / 2, Beta((D - 1)/2, (D - 1)/2), is needed: by symmetry nothing
    else of a random codebook matters to an embedding on the first axis.
    """
    shape = (size - 1) / 2
    draws = np.random.default_rng(seed).beta(shape, shape, (codebooks, codes))
    return torch.from_numpy((2 * draws - 1).astype(np.float32))


def embedding_radius(first: Tensor, distance: float, reading: str, radius: float) -> Tensor:
    """Distance of the embedding from the sphere's centre, (codebooks, 1).

    The paper does not say from what `distance` is measured: `centre`; `nearest`, the code that is
    nearest; `ray`, the first code, on whose ray the embedding lies (Theorem 1's arrangement).
    """
    if reading == "centre":
        return torch.full((len(first), 1), distance)
    if reading == "ray":
        return torch.full((len(first), 1), distance + radius)
    along = radius * first.max(1, keepdim=True).values
    return along + (along.square() + distance**2 - radius**2).sqrt()


def random_codebook_entropies(
    first: Tensor, distance: float, reading: str, radius: float = 0.5
) -> Tensor:
    """Entropies of Eq. (2) for random codebooks on a sphere: (codebooks,) nats, Fig. D.6.

    Args:
        first: of `first_coordinates`.
        distance: d.
        reading: see `embedding_radius`.
        radius: of the sphere.
    """
    along = first
    if reading == "ray":
        along = first.clone()
        along[:, 0] = 1.0
    # -|e - E|^2 / 2 varies over the codes by e.E alone, since all codes have the same length.
    return entropy(embedding_radius(first, distance, reading, radius) * radius * along)


# Checkers: each proves a statement by computer algebra, or raises, under `python -O` too.


class NotProved(Exception):
    """A checker could not prove the statement: it is wrong, or beyond sympy."""


def proved(
    equations: str, statement: str, checker: Callable[..., None], *arguments: Any, **named: Any
) -> None:
    """Let a checker prove a statement, then print it; what is refused is not printed.

    Args:
        equations: which ones the statement is about, such as "D.3, D.4".
        statement: in words.
        checker: one of those below; it gets the remaining arguments.

    Raises:
        NotProved: the checker could not prove it.
    """
    checker(*arguments, **named)
    print(f"{equations:<14} {statement}")


def prove_identity(left: sympy.Expr, right: sympy.Expr) -> None:
    """Prove that two expressions are equal wherever their (positive) symbols are.

    Raises:
        NotProved: the difference does not simplify to zero.
    """
    import sympy

    difference = sympy.expand_log(sympy.sympify(left) - sympy.sympify(right), force=True)
    rest = sympy.simplify(sympy.powsimp(sympy.expand(difference)))
    if rest != 0:
        raise NotProved(f"not an identity: left - right = {rest}")


def prove_series(
    expression: sympy.Expr,
    expansion: sympy.Expr,
    remainder: sympy.Expr,
    variable: sympy.Symbol,
    order: int,
) -> None:
    """Prove expression = expansion + remainder + o(variable^order) as the variable falls to 0.

    The remainder is the leading one: it must be of that very order, and not be zero, so that
    neither a missing nor a superfluous term goes unnoticed.

    Raises:
        NotProved: the limit of (expression - expansion) / variable^order is another one.
    """
    import sympy

    expected = sympy.simplify(remainder / variable**order)
    if expected == 0:
        raise NotProved("a remainder of zero claims nothing")
    limit = sympy.limit((expression - expansion) / variable**order, variable, 0, "+")
    if sympy.simplify(limit - expected) != 0:
        raise NotProved(f"the remainder's coefficient is {limit}, not {expected}")


def prove_limit(
    expression: sympy.Expr, variable: sympy.Symbol, point: sympy.Expr, value: sympy.Expr
) -> None:
    """Prove what an expression tends to as the variable goes to a point, from above if finite.

    Raises:
        NotProved: the limit is another one.
    """
    import sympy

    limit = sympy.limit(expression, variable, point)
    if limit != value and sympy.simplify(limit - value) != 0:
        raise NotProved(f"the limit is {limit}, not {value}")


def prove_decreasing(
    expression: sympy.Expr, derivative: sympy.Expr, variable: sympy.Symbol
) -> None:
    """Prove that an expression falls strictly in a variable, given what its derivative is.

    Raises:
        NotProved: the derivative is another one, or is not negative for positive symbols.
    """
    import sympy

    prove_identity(sympy.diff(expression, variable), derivative)
    if not derivative.is_negative:
        raise NotProved(f"sympy cannot tell that {derivative} is negative")

"""Problems of sixteen states, on which every estimator of a gradient can be held against the truth.

A surrogate is a function of logits and a number of samples whose *gradient* is the estimate; what
it returns is worth nothing. It gets R copies of the logits, and so gives R independent estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rrvqlib.latents.binary import draw_bits
from rrvqlib.latents.draws import categorical

Surrogate = Callable[[Tensor, int], Tensor]  # logits (R, ...), J -> (R,)
Rule = Callable[[Tensor, Tensor], Tensor]  # f and log q, (J, R) nats each -> (R,)
Sampler = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]  # as in `latents.draws`


def gradient_of(objective: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """The gradient of a number in logits of any shape, of that shape."""
    start = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(objective(start), start)[0]


def log_mean_exp(log_weights: Tensor, dim: int) -> Tensor:
    """log of the mean of the weights along a dimension, in nats."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


@dataclass(frozen=True)
class CodesProblem:
    """Variables with K codes each, and a function of their code vectors.

    Attributes:
        logits: (n, K) nats, the posterior's.
        vectors: (K, D), which the variables share.
        f: vectors (..., n, D) -> (...) nats, log p(x, z).
    """

    logits: Tensor
    vectors: Tensor
    f: Callable[[Tensor], Tensor]

    @property
    def states(self) -> Tensor:
        """All combinations of codes, int64 (K^n, n)."""
        n, K = self.logits.shape
        return torch.cartesian_prod(*[torch.arange(K)] * n).view(-1, n)

    def log_q(self, codes: Tensor, logits: Tensor) -> Tensor:
        """Codes (..., n) under logits (n, K), or (..., n, K): their log-probability, (...) nats."""
        table = logits.log_softmax(-1).expand(*codes.shape, logits.shape[-1])
        return table.gather(-1, codes.unsqueeze(-1)).sum((-1, -2))

    def exact(self) -> Tensor:
        """The gradient of E f in the logits, a sum over the states: (n, K)."""
        f = self.f(self.vectors[self.states])
        return gradient_of(lambda a: (self.log_q(self.states, a).exp() * f).sum(), self.logits)

    def exact_bound(self, J: int) -> Tensor:
        """The gradient of the bound of J importance samples, over all J-tuples of states."""
        states = self.states
        tuples = torch.cartesian_prod(*[torch.arange(len(states))] * J).view(-1, J)
        f = self.f(self.vectors[states])

        def mean_bound(logits: Tensor) -> Tensor:
            log_q = self.log_q(states, logits)
            bounds = log_mean_exp((f - log_q)[tuples], 1)
            return (log_q[tuples].sum(1).exp() * bounds).sum()

        return gradient_of(mean_bound, self.logits)

    def draw(self, logits: Tensor, J: int) -> tuple[Tensor, Tensor]:
        """J states from each row of logits (R, n, K): f and log q, (J, R) nats each."""
        log_probabilities = logits.detach().log_softmax(-1)
        codes = categorical(log_probabilities.expand(J, *logits.shape))
        return self.f(self.vectors[codes]), self.log_q(codes, logits)

    def weigh(self, rule: Rule) -> Surrogate:
        """The surrogate of an estimator that weighs what came out."""
        return lambda logits, J: rule(*self.draw(logits, J))

    def follow(self, sampler: Sampler, temperature: float) -> Surrogate:
        """The surrogate of an estimator that follows slopes through relaxed or pretended draws."""

        def surrogate(logits: Tensor, J: int) -> Tensor:
            table = logits.log_softmax(-1).expand(J, *logits.shape)
            return self.f(sampler(table, self.vectors, temperature)[0]).mean(0)

        return surrogate


@dataclass(frozen=True)
class BitsProblem:
    """Bits +-1, and a function of them.

    Attributes:
        logits: (n,) nats, of +1.
        f: bits (..., n) -> (...) nats, also where they are not bits.
    """

    logits: Tensor
    f: Callable[[Tensor], Tensor]

    def log_q(self, bits: Tensor, logits: Tensor) -> Tensor:
        """Bits (..., n) -> their log-probability, (...) nats."""
        return F.logsigmoid(bits * logits).sum(-1)

    @property
    def states(self) -> Tensor:
        """All combinations of bits, (2^n, n)."""
        n = len(self.logits)
        return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * n).view(-1, n)

    def exact(self) -> Tensor:
        """The gradient of E f in the logits, a sum over the states: (n,)."""
        states = self.states
        f = self.f(states)
        return gradient_of(lambda a: (self.log_q(states, a).exp() * f).sum(), self.logits)

    def biases(self) -> tuple[float, float]:
        """Of straight-through and of the trapezoid rule, over the truth's length, without a draw.

        Both multiply the slope of f at the bits drawn, the one by 2 p (1 - p), the other by
        1 - P(bit); their means are sums over the states.
        """
        states, a = self.states, self.logits
        slopes = gradient_of(lambda z: self.f(z).sum(), states)  # (2^n, n)
        weighted = self.log_q(states, a).exp()[:, None] * slopes
        straight_through = (2 * torch.sigmoid(a) * torch.sigmoid(-a) * weighted).sum(0)
        trapezoid = (torch.sigmoid(-states * a) * weighted).sum(0)
        truth = self.exact()
        first, second = (
            ((mean - truth).norm() / truth.norm()).item() for mean in (straight_through, trapezoid)
        )
        return first, second

    def weigh(self, rule: Rule) -> Surrogate:
        """The surrogate of an estimator that weighs what came out."""

        def surrogate(logits: Tensor, J: int) -> Tensor:
            bits = draw_bits(logits.detach().expand(J, *logits.shape))
            return rule(self.f(bits), self.log_q(bits, logits))

        return surrogate

    def follow(self, rule: Callable[[Tensor], Tensor], *, one_by_one: bool = False) -> Surrogate:
        """The surrogate of an estimator that follows slopes.

        Args:
            rule: logits (J, R, n) -> bits, or places between them, with a derivative.
            one_by_one: move one bit at a time, with a pass for each, and leave the others bits.
        """

        def surrogate(logits: Tensor, J: int) -> Tensor:
            a = logits.expand(J, *logits.shape)
            places = rule(a)
            if not one_by_one:
                return self.f(places).mean(0)
            bits = torch.where(places.detach() < 0, -1.0, 1.0)
            own = torch.eye(a.shape[-1], dtype=torch.bool)
            return (
                self.f(torch.where(own, places[..., None, :], bits[..., None, :])).sum(-1).mean(0)
            )

        return surrogate


def straight_through_bits(logits: Tensor) -> Tensor:
    """Random bits +-1 of any shape with the derivative of their mean, 2 p (1 - p)."""
    a = logits.detach()
    return draw_bits(a) + 2 * torch.sigmoid(a) * torch.sigmoid(-a) * (logits - a)


def uniform_bits(logits: Tensor) -> Tensor:
    """Random places between -1 and 1 with the sign of a bit, and the trapezoid rule's derivative.

    The mean of f' at such a place, times that derivative, is the true gradient for one bit.
    """
    a = logits.detach()
    bits = draw_bits(a)
    return bits * torch.rand_like(bits) + torch.sigmoid(-bits * a) * (logits - a)


def two_variables() -> CodesProblem:
    """Two variables of four codes in three dimensions, 16 states, log p from -4.7 to -1.6 nats."""
    generator = torch.Generator().manual_seed(4)
    vectors, logits = (torch.randn(*s, generator=generator) for s in ((4, 3), (2, 4)))
    w1, w2 = (torch.randn(*s, generator=generator) for s in ((6, 16), (16,)))
    return CodesProblem(logits, vectors, lambda v: -(v.flatten(-2) @ w1 / 2).sin() @ w2 / 2 - 3)


def four_bits(seed: int = 162) -> BitsProblem:
    """Four bits, 16 states, and a wavy function of them, another for each seed.

    Straight-through and the trapezoid rule do on seed 162 about what they do on most.
    """
    generator = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(*s, generator=generator) for s in ((4, 16), (16,)))
    return BitsProblem(
        torch.tensor([1.5, -1.0, 0.5, -2.0]), lambda z: -(z @ w1 / 2).sin() @ w2 / 2 - 3
    )


class Measured(NamedTuple):
    """What many estimates of one gradient were like, relative to the length of the truth.

    Attributes:
        bias: length of the mean error.
        deviation: root of the summed variances, of one estimate.
        unbiased: whether no coordinate's mean is further from the truth than chance allows, 4.5
            standard errors.
    """

    bias: float
    deviation: float
    unbiased: bool


def measure(
    surrogate: Surrogate, logits: Tensor, truth: Tensor, J: int = 3, repeats: int = 50_000
) -> Measured:
    """Hold the estimates of a surrogate against the truth.

    Args:
        surrogate: of the estimator.
        logits: where, of any shape.
        truth: the exact gradient there, of the same shape.
        J: samples an estimate.
        repeats: independent estimates.
    """
    torch.manual_seed(0)
    rows = logits.expand(repeats, *logits.shape).clone().requires_grad_()
    (found,) = torch.autograd.grad(surrogate(rows, J).sum(), rows)
    error, standard_error = found.mean(0) - truth, found.std(0) / math.sqrt(repeats)
    length = truth.norm()
    return Measured(
        bias=(error.norm() / length).item(),
        deviation=(found.var(0).sum().sqrt() / length).item(),
        unbiased=bool((error.abs() <= 4.5 * standard_error + 1e-6 * length).all()),
    )

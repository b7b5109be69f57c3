"""Chapter 10's problems of sixteen states: their truths, and what is measured against them."""

import math

import pytest
import torch

from rrvqlib.latents import draws, trapezoid_bits
from rrvqlib.objectives import score_function
from rrvqlib.teaching import gradients


def one_bit(f, p=0.8):
    logit = torch.tensor([math.log(p / (1 - p))])
    return gradients.BitsProblem(logit, lambda z: f(z[..., 0]))


def test_the_exact_gradient_of_a_bit_is_a_difference():
    problem = one_bit(lambda z: z**3 + z)
    assert problem.exact().item() == pytest.approx(0.8 * 0.2 * 4, rel=1e-5)


def test_the_exact_gradient_of_codes_is_that_of_the_mean_by_finite_differences():
    problem = gradients.two_variables()
    assert len(problem.states) == 16

    def mean(logits):
        q = problem.log_q(problem.states, logits).double().exp()
        return (q * problem.f(problem.vectors[problem.states])).sum()

    step = torch.zeros(2, 4)
    step[1, 2] = 1e-2
    slope = (mean(problem.logits + step) - mean(problem.logits - step)) / 2e-2
    assert problem.exact()[1, 2].item() == pytest.approx(slope.item(), abs=1e-4)


def test_the_bound_of_one_sample_is_the_elbo():
    problem = gradients.two_variables()
    states = problem.states
    f = problem.f(problem.vectors[states])

    def elbo(logits):
        log_q = problem.log_q(states, logits)
        return (log_q.exp() * (f - log_q)).sum()

    expected = gradients.gradient_of(elbo, problem.logits)
    torch.testing.assert_close(problem.exact_bound(1), expected, atol=1e-6, rtol=1e-5)


def test_unbiased_estimators_of_the_library_are_found_unbiased_and_biased_ones_biased():
    problem = gradients.two_variables()
    for rule, truth in (
        (score_function.leave_one_out, problem.exact()),
        (lambda f, log_q: score_function.vimco(f - log_q, log_q), problem.exact_bound(3)),
    ):
        found = gradients.measure(problem.weigh(rule), problem.logits, truth, repeats=20_000)
        assert found.unbiased and found.bias < 0.1
    relaxed = problem.follow(draws.straight_through_vectors, 1.0)
    assert not gradients.measure(relaxed, problem.logits, problem.exact()).unbiased


def test_a_wrong_truth_is_noticed():
    problem = gradients.two_variables()
    surrogate = problem.weigh(score_function.leave_one_out)
    assert not gradients.measure(surrogate, problem.logits, 1.2 * problem.exact()).unbiased


@pytest.mark.parametrize(("f", "exact"), [(lambda z: z + z**2, True), (lambda z: z**3, False)])
def test_the_trapezoid_is_exact_for_quadratics_and_uniform_places_always(f, exact):
    problem = one_bit(f)
    truth = problem.exact()
    for rule, right in ((trapezoid_bits, exact), (gradients.uniform_bits, True)):
        assert gradients.measure(problem.follow(rule), problem.logits, truth).unbiased == right


@pytest.mark.parametrize("seed", [0, 162])
def test_biases_by_sums_are_those_by_draws(seed):
    problem = gradients.four_bits(seed)
    truth = problem.exact()
    rules = (gradients.straight_through_bits, trapezoid_bits)
    for rule, bias in zip(rules, problem.biases(), strict=True):
        found = gradients.measure(problem.follow(rule), problem.logits, truth)
        assert found.bias == pytest.approx(bias, abs=0.02)


def test_one_bit_at_a_time_uniform_places_are_unbiased_for_several_bits():
    problem = gradients.four_bits()
    truth = problem.exact()
    alone = problem.follow(gradients.uniform_bits, one_by_one=True)
    together = problem.follow(gradients.uniform_bits)
    assert gradients.measure(alone, problem.logits, truth).unbiased
    assert not gradients.measure(together, problem.logits, truth).unbiased

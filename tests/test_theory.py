"""Worst-case entropies against torch and NumPy; sympy's checkers refuse what is wrong."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrvqlib.teaching import theory
from rrvqlib.teaching.theory import (
    NotProved,
    prove_decreasing,
    prove_identity,
    prove_limit,
    prove_series,
    proved,
)

x, g, n = sp.symbols("x g n", positive=True)
H = sp.log(1 + x) + x * g / (1 + x)
HALF = sp.Rational(1, 2)
CHAPTER = Path(__file__).parent.parent / "book" / "05-entropy-theorems.ipynb"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(0, 60), st.integers(2, 300), st.integers(1, 20))
def test_worst_case_entropy_equals_that_of_torch(gap, codes, near):
    near = min(near, codes - 1)
    logits = torch.zeros(codes, dtype=torch.float64)
    logits[:near] = gap
    expected = torch.distributions.Categorical(logits=logits).entropy().item()
    found = theory.worst_case_entropy(gap, codes, near)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-13)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12))
def test_entropy_of_logits_equals_the_sum(values):
    p = np.exp(np.array(values) - max(values))
    p /= p.sum()
    found = theory.entropy(torch.tensor(values, dtype=torch.float64)).item()
    assert found == pytest.approx(-(p * np.log(p)).sum(), rel=1e-9, abs=1e-12)


def test_entropy_is_right_where_the_naive_sum_is_zero_or_nan():
    for gap in (50.0, 300.0, 700.0):
        logits = torch.tensor([0.0] + [-gap] * 255, dtype=torch.float64)
        expected = 255 * (1 + gap) * math.exp(-gap)
        assert theory.entropy(logits).item() == pytest.approx(expected, rel=1e-9)
        assert theory.worst_case_entropy(gap, 256) == pytest.approx(expected, rel=1e-9)


def test_first_order_is_the_limit_and_overshoots_by_the_stated_amount():
    for codes, gap in [(2, 12.0), (16, 12.0), (256, 14.0)]:
        x_value = (codes - 1) * math.exp(-gap)
        error = theory.first_order_entropy(gap, codes) - theory.worst_case_entropy(gap, codes)
        assert error == pytest.approx(x_value**2 * (0.5 + gap), rel=2e-3)


def test_both_theorems_are_one_function():
    d, delta = 7.0, 0.8
    logits = -0.5 * torch.tensor([d] + [d + delta] * 15, dtype=torch.float64).square()
    gap = theory.rvq_log_ratio(d, delta)
    assert theory.entropy(logits).item() == pytest.approx(theory.worst_case_entropy(gap, 16))
    softmax = torch.tensor([3.0 + gap] + [3.0] * 15, dtype=torch.float64)
    assert theory.entropy(softmax).item() == pytest.approx(theory.worst_case_entropy(gap, 16))
    shared = theory.rvq_log_ratio(d, delta, variance=2.0)
    assert theory.entropy(logits / 2).item() == pytest.approx(theory.worst_case_entropy(shared, 16))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(0.05, 0.98), st.floats(-1, 3), st.floats(0.01, 40))
def test_the_crossover_separates_where_rvq_has_more_entropy(separation, offset, step):
    crossing = theory.crossover_distance(separation, offset)
    for distance, higher in [(crossing + step, True), (crossing - step, False)]:
        rvq, softmax = theory.rvq_log_ratio(distance, separation), distance - offset
        if min(rvq, softmax) < 0 or abs(rvq - softmax) < 1e-9 or max(rvq, softmax) > 600:
            continue
        more = theory.worst_case_entropy(rvq, 16) > theory.worst_case_entropy(softmax, 16)
        assert more == higher or abs(rvq - softmax) * min(rvq, softmax) < 1e-9


def test_there_is_no_crossover_at_separation_one():
    with pytest.raises(ValueError, match="below 1"):
        theory.crossover_distance(1.0)


@pytest.fixture(scope="module")
def whole_codebooks():
    """Codebooks of 256 codes on the sphere of radius 1/2 in 32 dimensions, all coordinates."""
    codes = torch.randn(1_000, 256, 32, generator=torch.Generator().manual_seed(0))
    return codes / (2 * codes.norm(dim=-1, keepdim=True))


def largest_difference(a, b):
    """Of two empirical cumulative distributions: Kolmogorov and Smirnov's statistic."""
    a, b = a.sort().values, b.sort().values
    both = torch.cat([a, b])
    of_a = torch.searchsorted(a, both, right=True) / len(a)
    of_b = torch.searchsorted(b, both, right=True) / len(b)
    return (of_a - of_b).abs().max().item()


def whole_entropies(codes, distance, reading):
    """Entropies of Eq. (2), the embedding placed by measured distances: no formula for R."""
    ray = codes[:, 0] if reading == "ray" else torch.eye(32)[:1].expand(len(codes), 32)
    ray = ray / ray.norm(dim=-1, keepdim=True)
    low, high = torch.zeros(len(codes), 1), torch.full((len(codes), 1), distance + 1)
    for _ in range(30):  # bisection for the length of the embedding
        radius = (low + high) / 2
        distances = torch.cdist(codes, (radius * ray).unsqueeze(1)).squeeze(-1)
        measured = {
            "centre": radius,
            "nearest": distances.min(1, keepdim=True).values,
            "ray": distances[:, :1],
        }[reading]
        close = measured < distance
        # Along the ray of code 1 the distance falls before it grows: stay behind the code.
        close |= (radius < 0.5) if reading == "ray" else False
        low, high = torch.where(close, radius, low), torch.where(close, high, radius)
    return theory.entropy(-distances.double().square() / 2)


# Among equal laws, samples of 1,000 and 20,000 differ by this much once in a thousand times.
CRITICAL = 1.95 * math.sqrt(1 / 1_000 + 1 / 20_000)


@pytest.mark.parametrize("distance", [6.0, 30.0])
@pytest.mark.parametrize("reading", ["centre", "nearest", "ray"])
def test_first_coordinates_stand_for_whole_codebooks(whole_codebooks, reading, distance):
    slow = whole_entropies(whole_codebooks, distance, reading)
    first = theory.first_coordinates(20_000, 256, 32)
    fast = theory.random_codebook_entropies(first, distance, reading)
    assert largest_difference(slow, fast.to(slow.dtype)) < CRITICAL
    error = (slow.var() / len(slow) + fast.var() / len(fast)).sqrt()
    assert abs(slow.mean() - fast.mean()) < 4 * error


@pytest.mark.parametrize("reading", ["centre", "nearest", "ray"])
def test_whole_codebooks_refuse_the_law_of_another_dimension(whole_codebooks, reading):
    slow = whole_entropies(whole_codebooks, 30.0, reading)
    wrong = theory.first_coordinates(20_000, 256, 28)
    fast = theory.random_codebook_entropies(wrong, 30.0, reading)
    assert largest_difference(slow, fast.to(slow.dtype)) > CRITICAL


def test_no_distribution_has_less_entropy_than_the_worst_number_of_ties():
    random = np.random.default_rng(0)
    for gap, codes in [(0.5, 4), (3.0, 16), (5.0, 64)]:
        least = theory.worst_case_entropy(gap, codes, near=np.arange(1, codes)).min()
        likely = random.random((5_000, codes)) < random.random((5_000, 1))
        logits = torch.tensor(gap * np.abs(likely - random.choice([0, 0.02], (5_000, 1))))
        found = theory.entropy(logits).min().item()
        assert least - 1e-12 <= found < 1.01 * least  # never below, and nearly reached


def test_first_coordinates_have_the_variance_of_a_sphere():
    t = theory.first_coordinates(2_000, 256, 32)
    assert t.var().item() == pytest.approx(1 / 32, rel=0.01)
    assert t.abs().max() <= 1


def test_the_checkers_prove_what_is_true():
    prove_series(H, x * (1 + g), -(x**2) * (HALF + g), x, order=2)
    prove_identity(sp.log(n * sp.exp(-g)), sp.log(n) - g)
    slope = -g * n * sp.exp(-g) / (1 + n * sp.exp(-g)) ** 2
    prove_decreasing(H.subs(x, n * sp.exp(-g)), slope, g)
    prove_limit(H.subs(x, n * sp.exp(-g)) / (g * sp.exp(-g)), g, sp.oo, n)


@pytest.mark.parametrize(
    ("expansion", "remainder"),
    [
        (x * (1 - g), -(x**2) * (HALF + g)),  # a sign
        (2 * x * (1 + g), -(x**2) * (HALF + g)),  # a factor
        (x, -(x**2) * (HALF + g)),  # a missing term
        (x * (1 + g), -(x**2)),  # the remainder as the paper prints it: no g
        (x * (1 + g), x**2 * (HALF + g)),  # the remainder's sign
        (x * (1 + g), 0 * x),  # no claim at all
        (x * (1 + g) - x**2 * (HALF + g), -(x**2) * (HALF + g)),  # a superfluous term
    ],
)
def test_the_series_checker_refuses(expansion, remainder):
    with pytest.raises(NotProved):
        prove_series(H, expansion, remainder, x, order=2)


@pytest.mark.parametrize(
    "wrong",
    [
        sp.log(1 + x) - x * g / (1 + x),  # a sign
        sp.log(1 + x) + 2 * x * g / (1 + x),  # a factor
        sp.log(1 + x),  # a missing term
        sp.log(1 + x) + x * g,  # a missing denominator
    ],
)
def test_the_identity_checker_refuses(wrong):
    prove_identity(H, sp.expand((1 + x) * H) / (1 + x))
    with pytest.raises(NotProved, match="not an identity"):
        prove_identity(H, wrong)


@pytest.mark.parametrize("wrong", [-n, 2 * n, n + 1, sp.oo, 0])
def test_the_limit_checker_refuses(wrong):
    with pytest.raises(NotProved, match="the limit is n"):
        prove_limit(H.subs(x, n * sp.exp(-g)) / (g * sp.exp(-g)), g, sp.oo, wrong)


def test_the_monotonicity_checker_refuses_a_wrong_derivative_and_a_wrong_sign():
    with pytest.raises(NotProved, match="not an identity"):
        prove_decreasing(sp.exp(-g), -2 * sp.exp(-g), g)
    with pytest.raises(NotProved, match="negative"):
        prove_decreasing(sp.exp(g), sp.exp(g), g)


def test_what_is_proved_is_printed_and_what_is_refused_is_not(capsys):
    proved("D.14", "log(1 + x) = x", prove_series, sp.log(1 + x), x, -(x**2) / 2, x, order=2)
    assert capsys.readouterr().out == "D.14           log(1 + x) = x\n"
    with pytest.raises(NotProved):
        proved("D.14", "log(1 + x) = 2 x", prove_series, sp.log(1 + x), 2 * x, x, x, order=2)
    assert capsys.readouterr().out == ""


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12))
def test_the_runner_up_bounds_the_entropy(values):
    best, second = sorted(values)[-1:-3:-1]
    found = theory.entropy(torch.tensor(values, dtype=torch.float64)).item()
    assert found <= theory.worst_case_entropy(best - second, len(values)) + 1e-12


WRONG_VARIANTS = """
import sympy as sp
from rrvqlib.teaching.theory import NotProved, prove_decreasing, prove_identity, prove_limit
from rrvqlib.teaching.theory import prove_series

assert False, "python -O skips this"
x, g = sp.symbols("x g", positive=True)
H = sp.log(1 + x) + x * g / (1 + x)
prove_series(H, x * (1 + g), -(x**2) * (sp.Rational(1, 2) + g), x, order=2)
for claim in [
    lambda: prove_identity(H, sp.log(1 + x) - x * g / (1 + x)),
    lambda: prove_series(H, 2 * x * (1 + g), -(x**2) * (sp.Rational(1, 2) + g), x, order=2),
    lambda: prove_series(H, x, -(x**2) * (sp.Rational(1, 2) + g), x, order=2),
    lambda: prove_limit(H / x, x, 0, g),
    lambda: prove_decreasing(sp.exp(g), sp.exp(g), g),
]:
    try:
        claim()
    except NotProved:
        print("refused")
"""


def test_wrong_variants_are_refused_when_python_drops_its_asserts():
    """A sign, a factor, two missing terms and a rising function, under python -O."""
    run = subprocess.run(
        [sys.executable, "-O", "-c", WRONG_VARIANTS], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["refused"] * 5


def test_the_counts_of_the_errata():
    assert 8 * (16**2 + 8**2 + 4**2 + 2**2) == 2720
    assert 256 * 7 + 64 * 6 + 16 * 5 + 4 * 4 + 3 == 2275
    assert round(64 * 64 * 3 * 8 / 2275, 1) == 43.2 and round(2275 / 8, 1) == 284.4
    assert math.ceil(math.log(8e-4 / 5e-5) / math.log(1 / 0.8)) * 20 == 260


def in_node(expression):
    """What an expression is in the chapter's interactive figure."""
    text = "".join("".join(cell["source"]) for cell in json.loads(CHAPTER.read_text())["cells"])
    maths = text.split("// entropy-maths")[1].split("// end of entropy-maths")[0]
    script = f"{maths}console.log(JSON.stringify({expression}))"
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@needs_node
def test_the_interactive_figure_computes_what_the_library_does():
    cases = [
        (d, delta, near, far)
        for d in (0, 3, 12, 40)
        for delta in (0.2, 1, 3)
        for near, far in ((1, 1), (0.5, 2), (2, 0.5))
    ]
    by_figure = in_node(
        f"{json.dumps(cases)}.map(c => entropyOf(logRatio(c[0], c[1], 32, c[2], c[3]), 256))"
    )
    for (d, delta, near, far), found in zip(cases, by_figure, strict=True):
        distances = torch.tensor([d] + [d + delta] * 255, dtype=torch.float64)
        variances = torch.tensor([near] + [far] * 255, dtype=torch.float64)
        logits = -distances.square() / (2 * variances) - 16 * variances.log()
        assert found == pytest.approx(theory.entropy(logits).item(), rel=1e-8)


@needs_node
@pytest.mark.parametrize(("separation", "offset"), [(0.5, 0), (0.9, 0), (0.9, 2), (0.8, -0.1)])
def test_the_interactive_figure_marks_the_crossover(separation, offset):
    lead = f"t => lead(t, {separation}, 32, 1, 1, 256, {offset})"
    expected = [theory.crossover_distance(separation, offset)]
    assert in_node(f"crossings({lead})") == pytest.approx(expected, abs=1e-6)


@needs_node
def test_the_interactive_figure_marks_no_crossover_at_separation_one_and_two_of_a_parabola():
    assert in_node("crossings(t => lead(t, 1, 32, 1, 1, 256, 0))") == []
    first, second = in_node("crossings(t => lead(t, 0.5, 32, 1.05, 1, 256, 0))")
    assert first < second < 40

"""The discretised logistic against logistic distribution functions in float64."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import AffineTransform, SigmoidTransform, TransformedDistribution, Uniform

from rrvqlib.likelihood import (
    DiscretisedLogistic,
    log_bin_mass,
    pixels_to_reals,
    reals_to_pixels,
)

EXACT = settings(derandomize=True, deadline=None, max_examples=40)
VALUES = torch.arange(256, dtype=torch.uint8)
means = st.floats(-0.498, 0.498)
log_scales = st.floats(-7, 2)


def random_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def set_log_scale(likelihood, values):
    with torch.no_grad():
        likelihood.log_scale.copy_(torch.as_tensor(values).view(-1, 1, 1))
    return likelihood


def logistic(mean, scale):
    """The logistic distribution as torch.distributions builds it, in float64."""
    uniform = Uniform(torch.zeros((), dtype=torch.float64), 1, validate_args=False)
    transforms = [SigmoidTransform().inv, AffineTransform(mean, scale)]
    return TransformedDistribution(uniform, transforms, validate_args=False)


def test_pixel_values_and_reals_are_inverse():
    reals = pixels_to_reals(VALUES)
    assert reals.dtype == torch.float32
    assert torch.equal(reals_to_pixels(reals), VALUES)
    np.testing.assert_allclose(reals.numpy(), (np.arange(256) - 127.5) / 256, atol=1e-7)


def test_reals_go_to_the_pixel_value_whose_bin_holds_them():
    edges = torch.tensor([-9.0, -0.5, -0.4999, -0.0001, 0.0001, 0.4999, 0.5, 9.0])
    assert reals_to_pixels(edges).tolist() == [0, 0, 0, 127, 128, 255, 255, 255]


@EXACT
@given(mean=means, log_scale=log_scales)
def test_with_edge_bins_the_256_masses_sum_to_one(mean, log_scale):
    mass = log_bin_mass(VALUES, torch.tensor(mean), torch.tensor(log_scale), True).double().exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


@EXACT
@given(mean=means, log_scale=log_scales)
def test_without_edge_bins_the_masses_leave_out_what_lies_beyond_the_pixels(mean, log_scale):
    mass = log_bin_mass(VALUES, torch.tensor(mean), torch.tensor(log_scale), False).double().exp()
    distribution = stats.logistic(mean, math.exp(log_scale))
    inside = distribution.cdf(0.5) - distribution.cdf(-0.5)
    assert mass.sum().item() == pytest.approx(inside, abs=1e-5)
    assert mass.sum().item() <= 1 + 1e-5


@pytest.mark.parametrize("edge_bins", [False, True])
@EXACT
@given(mean=means, log_scale=log_scales)
def test_masses_are_differences_of_the_logistic_distribution_function(edge_bins, mean, log_scale):
    found = log_bin_mass(VALUES, torch.tensor(mean), torch.tensor(log_scale), edge_bins)
    distribution = logistic(mean, math.exp(log_scale))
    edges = torch.arange(257, dtype=torch.float64) / 256 - 0.5
    below = distribution.cdf(edges)
    above = distribution.cdf(2 * mean - edges)  # by symmetry 1 - below, exact in the upper tail
    mass = torch.where(edges[:-1] > mean, above[:-1] - above[1:], below[1:] - below[:-1])
    if edge_bins:
        mass[0], mass[-1] = below[1], above[-2]
    kept = mass > 1e-30
    # float32 places the bin's edges to within 3e-8, which a small scale magnifies.
    tolerance = 1e-4 + 1e-7 * math.exp(-log_scale)
    torch.testing.assert_close(found.double()[kept], mass[kept].log(), atol=tolerance, rtol=1e-4)


@EXACT
@given(mean=means, log_scale=st.floats(-4, 1), value=st.integers(0, 255))
def test_masses_are_those_that_kingma_et_al_compute(mean, log_scale, value):
    """sigmoid((lo + 1/256 - mean) / s) - sigmoid((lo - mean) / s) + 1e-7, in float64."""
    inverse = math.exp(-log_scale)
    low = (value + 0.5) / 256 - 0.5 - 0.5 / 256

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    mass = sigmoid((low + 1 / 256 - mean) * inverse) - sigmoid((low - mean) * inverse) + 1e-7
    found = log_bin_mass(torch.tensor(value), torch.tensor(mean), torch.tensor(log_scale), False)
    assert math.exp(found.item()) == pytest.approx(mass, abs=2e-7, rel=1e-4)


@pytest.mark.parametrize("edge_bins", [False, True])
@pytest.mark.parametrize("log_scale", [-12.0, -7.0, -2.0, 0.0, 5.0])
@pytest.mark.parametrize("mean", [-5.0, -0.498, 0.0, 0.498, 5.0])
def test_masses_and_gradients_are_finite_at_extremes(edge_bins, log_scale, mean):
    inputs = [torch.tensor(mean, requires_grad=True), torch.tensor(log_scale, requires_grad=True)]
    log_mass = log_bin_mass(VALUES, *inputs, edge_bins)
    gradients = torch.autograd.grad(log_mass.sum(), inputs)
    assert log_mass.isfinite().all() and (log_mass <= 1e-6).all()
    assert all(g.isfinite() for g in gradients)


@pytest.mark.parametrize("edge_bins", [False, True])
def test_gradients_are_finite_differences(edge_bins):
    pixels = torch.tensor([0, 3, 128, 250, 255])
    mean = torch.linspace(-0.4, 0.4, 5, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, s: log_bin_mass(pixels, m, s, edge_bins), (mean, log_scale)
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_log_prob_is_the_sum_over_sub_pixels(per_channel):
    likelihood = DiscretisedLogistic(per_channel)
    scales = [-3.0, -2.0, -1.0] if per_channel else [-2.5]
    set_log_scale(likelihood, scales)
    images, mean = random_images(2, 3, 4, 4), 0.3 * torch.randn(2, 3, 4, 4).clamp(-1.5, 1.5)
    found = likelihood.log_prob(images, mean)
    for b in range(2):
        total = 0.0
        for c in range(3):
            distribution = stats.logistic(mean[b, c].numpy(), math.exp(scales[c % len(scales)]))
            low = images[b, c].numpy() / 256 - 0.5
            total += np.log(distribution.cdf(low + 1 / 256) - distribution.cdf(low)).sum()
        assert found[b].item() == pytest.approx(total, abs=1e-2)


def test_equal_scales_per_channel_are_one_scale():
    images, mean = random_images(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    per_channel, scalar = DiscretisedLogistic(True), DiscretisedLogistic(False)
    assert per_channel.log_scale.shape == (3, 1, 1) and scalar.log_scale.shape == (1, 1, 1)
    assert torch.equal(per_channel.log_prob(images, mean), scalar.log_prob(images, mean))
    set_log_scale(per_channel, [-2.0, -2.0, -1.0])
    assert not torch.equal(per_channel.log_prob(images, mean), scalar.log_prob(images, mean))


def test_kingmas_form_loses_two_bits_per_dim_at_scale_one():
    likelihood = set_log_scale(DiscretisedLogistic(), [0.0, 0.0, 0.0])
    images = VALUES.view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mass = log_bin_mass(VALUES, torch.tensor(0.0), torch.tensor(0.0), False).exp().sum().item()
    assert -math.log2(mass) == pytest.approx(2.03, abs=0.005)
    bits = -likelihood.log_prob(images, torch.zeros(1, 3, 16, 16)).item() / math.log(2) / 768
    assert bits == pytest.approx(8 + 2.03, abs=0.02)


@pytest.mark.parametrize("mean", [-3.0, 3.0])
def test_means_are_clipped_to_the_outermost_bin_centres(mean):
    likelihood, images = DiscretisedLogistic(), random_images(1, 3, 4, 4)
    edge = math.copysign(0.5 - 1 / 512, mean)
    far, near = (likelihood.log_prob(images, torch.full((1, 3, 4, 4), m)) for m in (mean, edge))
    assert torch.equal(far, near)


def test_likelihood_stays_in_float32_under_autocast():
    likelihood, images = DiscretisedLogistic(), random_images(2, 3, 4, 4)
    mean = (0.2 * torch.randn(2, 3, 4, 4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood.log_prob(images, mean)
    assert torch.equal(found, likelihood.log_prob(images, mean.float()))


@pytest.mark.parametrize("mean", [-9.0, 0.1])
def test_samples_have_the_masses_of_the_bins(mean):
    torch.manual_seed(0)
    likelihood = set_log_scale(DiscretisedLogistic(edge_bins=True), [-4.0, -4.0, -4.0])
    drawn = likelihood.sample(torch.full((10, 3, 50, 50), mean))
    assert drawn.dtype == torch.uint8
    counts = torch.bincount(drawn.flatten().long(), minlength=256).double().numpy()
    clipped = torch.tensor(max(mean, -0.5 + 1 / 512))
    mass = log_bin_mass(VALUES, clipped, torch.tensor(-4.0), True).double().exp().numpy()
    common = mass * counts.sum() > 10
    groups = np.append(counts[common], counts[~common].sum())
    expected = np.append(mass[common], mass[~common].sum())
    expected *= counts.sum() / expected.sum()
    assert stats.chisquare(groups, expected).pvalue > 1e-3


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run the figure's script")
@pytest.mark.parametrize("edge_bins", [False, True])
@pytest.mark.parametrize(("mean", "scale"), [(30.0, 8.0), (0.0, 0.5), (255.0, 256.0), (127.5, 2.0)])
def test_the_figure_of_chapter_1_computes_the_same(mean, scale, edge_bins):
    chapter = Path(__file__).parent.parent / "book" / "01-bits-per-dimension.ipynb"
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    page = "".join("".join(cell["source"]) for cell in cells)
    script = re.search(r"// logistic-maths.*?// end of logistic-maths", page, re.S)
    edge = json.dumps(edge_bins)
    call = f"{script.group(0)}\nconsole.log(JSON.stringify(allLogMasses({mean}, {scale}, {edge})))"
    done = subprocess.run(["node", "-e", call], capture_output=True, text=True, check=True)
    # The figure speaks of pixel values, the library of numbers between -1/2 and 1/2.
    here = torch.tensor([(mean + 0.5) / 256 - 0.5], dtype=torch.float64)
    log_scale = torch.tensor([math.log(scale / 256)], dtype=torch.float64)
    expected = log_bin_mass(VALUES, here, log_scale, edge_bins)
    theirs = torch.tensor(json.loads(done.stdout), dtype=torch.float64)
    torch.testing.assert_close(theirs, expected, rtol=1e-9, atol=1e-9)

"""Every likelihood against distribution functions in float64, written by hand or by SciPy."""

import json
import math
import os
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

from rrvqlib.likelihoods import log_bin_mass, pixels_to_reals, reals_to_pixels
from rrvqlib.likelihoods.base import logistic_noise
from rrvqlib.likelihoods.mixture import coupled
from rrvqlib.models.base import build_likelihood
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.settings.likelihoods import LIKELIHOODS

EXACT = settings(derandomize=True, deadline=None, max_examples=40)
VALUES = torch.arange(256, dtype=torch.uint8)
means = st.floats(-0.498, 0.498)
log_scales = st.floats(-7, 2)


def random_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def make(name, **changes):
    return build_likelihood(changed(ModelSettings(), likelihood=name, **changes))


def set_log_scale(likelihood, values):
    with torch.no_grad():
        likelihood.log_scale.copy_(torch.as_tensor(values).view(-1, 1, 1))
    return likelihood


def bin_masses(mean, log_scale, *, edge_bins):
    """Of the 256 pixel values, in float64."""
    inputs = torch.tensor(mean), torch.tensor(log_scale)
    return log_bin_mass(VALUES, *inputs, edge_bins=edge_bins).double().exp()


def logistic(mean, scale):
    """The logistic distribution as torch.distributions builds it, in float64."""
    uniform = Uniform(torch.zeros((), dtype=torch.float64), 1, validate_args=False)
    transforms = [SigmoidTransform().inv, AffineTransform(mean, scale)]
    return TransformedDistribution(uniform, transforms, validate_args=False)


def random_parameters(likelihood, batch, side, spread=0.3, seed=0):
    """What a decoder might say: means, scales and coefficients of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, likelihood.parameter_channels, side, side)
    return spread * torch.randn(shape, generator=generator)


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
    mass = bin_masses(mean, log_scale, edge_bins=True)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)


@EXACT
@given(mean=means, log_scale=log_scales)
def test_without_edge_bins_the_masses_leave_out_what_lies_beyond_the_pixels(mean, log_scale):
    mass = bin_masses(mean, log_scale, edge_bins=False)
    distribution = stats.logistic(mean, math.exp(log_scale))
    inside = distribution.cdf(0.5) - distribution.cdf(-0.5)
    assert mass.sum().item() == pytest.approx(inside, abs=1e-5)
    assert mass.sum().item() <= 1 + 1e-5


@pytest.mark.parametrize("edge_bins", [False, True])
@EXACT
@given(mean=means, log_scale=log_scales)
def test_masses_are_differences_of_the_logistic_distribution_function(edge_bins, mean, log_scale):
    found = log_bin_mass(VALUES, torch.tensor(mean), torch.tensor(log_scale), edge_bins=edge_bins)
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
    found = log_bin_mass(
        torch.tensor(value), torch.tensor(mean), torch.tensor(log_scale), edge_bins=False
    )
    assert math.exp(found.item()) == pytest.approx(mass, abs=2e-7, rel=1e-4)


@pytest.mark.parametrize("edge_bins", [False, True])
@pytest.mark.parametrize("log_scale", [-12.0, -7.0, -2.0, 0.0, 5.0])
@pytest.mark.parametrize("mean", [-5.0, -0.498, 0.0, 0.498, 5.0])
def test_masses_and_gradients_are_finite_at_extremes(edge_bins, log_scale, mean):
    inputs = [torch.tensor(mean, requires_grad=True), torch.tensor(log_scale, requires_grad=True)]
    log_mass = log_bin_mass(VALUES, *inputs, edge_bins=edge_bins)
    gradients = torch.autograd.grad(log_mass.sum(), inputs)
    assert log_mass.isfinite().all() and (log_mass <= 1e-6).all()
    assert all(g.isfinite() for g in gradients)


@pytest.mark.parametrize("edge_bins", [False, True])
def test_gradients_are_finite_differences(edge_bins):
    pixels = torch.tensor([0, 3, 128, 250, 255])
    mean = torch.linspace(-0.4, 0.4, 5, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, s: log_bin_mass(pixels, m, s, edge_bins=edge_bins), (mean, log_scale)
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_log_prob_is_the_sum_over_sub_pixels(per_channel):
    likelihood = make("logistic", scale_per_channel=per_channel)
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
    per_channel, scalar = make("logistic"), make("logistic", scale_per_channel=False)
    assert per_channel.log_scale.shape == (3, 1, 1) and scalar.log_scale.shape == (1, 1, 1)
    assert torch.equal(per_channel.log_prob(images, mean), scalar.log_prob(images, mean))
    set_log_scale(per_channel, [-2.0, -2.0, -1.0])
    assert not torch.equal(per_channel.log_prob(images, mean), scalar.log_prob(images, mean))


def test_kingmas_form_loses_two_bits_per_dim_at_scale_one():
    likelihood = set_log_scale(make("logistic"), [0.0, 0.0, 0.0])
    images = VALUES.view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mass = bin_masses(0.0, 0.0, edge_bins=False).sum().item()
    assert -math.log2(mass) == pytest.approx(2.03, abs=0.005)
    bits = -likelihood.log_prob(images, torch.zeros(1, 3, 16, 16)).item() / math.log(2) / 768
    assert bits == pytest.approx(8 + 2.03, abs=0.02)


@pytest.mark.parametrize("mean", [-3.0, 3.0])
def test_means_are_clipped_to_the_outermost_bin_centres(mean):
    likelihood, images = make("logistic"), random_images(1, 3, 4, 4)
    edge = math.copysign(0.5 - 1 / 512, mean)
    far, near = (likelihood.log_prob(images, torch.full((1, 3, 4, 4), m)) for m in (mean, edge))
    assert torch.equal(far, near)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_stay_in_float32_under_autocast(name):
    likelihood, images = make(name), random_images(2, 3, 4, 4)
    parameters = random_parameters(likelihood, 2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood.log_prob(images, parameters)
    assert torch.equal(found, likelihood.log_prob(images, parameters.float()))


@pytest.mark.parametrize("mean", [-9.0, 0.1])
def test_samples_have_the_masses_of_the_bins(mean):
    torch.manual_seed(0)
    likelihood = set_log_scale(make("logistic-edge"), [-4.0, -4.0, -4.0])
    drawn = likelihood.sample(torch.full((10, 3, 50, 50), mean))
    assert drawn.dtype == torch.uint8
    counts = torch.bincount(drawn.flatten().long(), minlength=256).double().numpy()
    mass = bin_masses(max(mean, -0.5 + 1 / 512), -4.0, edge_bins=True).numpy()
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
    expected = log_bin_mass(VALUES, here, log_scale, edge_bins=edge_bins)
    theirs = torch.tensor(json.loads(done.stdout), dtype=torch.float64)
    torch.testing.assert_close(theirs, expected, rtol=1e-9, atol=1e-9)


# All likelihoods alike.


def coding_masses(likelihood, parameters, images):
    """Of all values of each channel given those before: (3, 256, B, S, S), in float64."""
    edges = torch.arange(257)
    with torch.no_grad():
        below = [
            likelihood.double().next_channel(parameters.double(), images[:, :c]).below(edges)
            for c in range(3)
        ]
    return torch.stack(below).diff(dim=1)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_256_coding_masses_of_each_channel_sum_to_one_given_those_before(name, spread):
    likelihood = make(name)
    parameters, images = random_parameters(likelihood, 2, 5, spread), random_images(2, 3, 5, 5)
    masses = coding_masses(likelihood, parameters, images)
    assert masses.min() >= 0
    torch.testing.assert_close(masses.sum(1), torch.ones(3, 2, 5, 5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_is_the_product_of_the_coding_masses(name):
    likelihood = make(name)
    parameters, images = random_parameters(likelihood, 2, 5, 0.1), random_images(2, 3, 5, 5)
    found = likelihood.log_prob(images, parameters)
    masses = coding_masses(likelihood, parameters, images)
    of_images = masses.gather(1, images.long().transpose(0, 1).unsqueeze(1)).squeeze(1)
    expected = of_images.log().sum((0, 2, 3))
    if name == "logistic":  # a coder divides by the mass that the pixels take
        values = VALUES.view(256, 1, 1, 1, 1)
        mean = likelihood.mean(parameters)
        kept = log_bin_mass(values, mean, likelihood.log_scale, edge_bins=False).exp().sum(0)
        assert kept.max() < 0.999
        expected = expected + kept.log().flatten(1).sum(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)


def test_edges_may_differ_from_pixel_to_pixel():
    likelihood = make("mixture").double()
    parameters, images = random_parameters(likelihood, 2, 3).double(), random_images(2, 3, 3, 3)
    channel = likelihood.next_channel(parameters, images[:, :1])
    edges = torch.randint(0, 257, (7, 2, 3, 3), generator=torch.Generator().manual_seed(1))
    everywhere = channel.below(torch.arange(257))  # (257, 2, 3, 3)
    torch.testing.assert_close(channel.below(edges), everywhere.gather(0, edges))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_are_as_frequent_as_the_masses_say(name):
    """Of red alone, and of green's and blue's given what was drawn before them."""
    torch.manual_seed(1)
    likelihood = make(name)
    one = random_parameters(likelihood, 1, 1, spread=0.15, seed=3)
    drawn = likelihood.sample(one.expand(-1, -1, 80, 80))
    assert drawn.dtype == torch.uint8 and drawn.shape == (1, 3, 80, 80)
    colours = drawn.flatten(2)[0].T.view(-1, 3, 1, 1)  # (6400, 3, 1, 1)
    masses = coding_masses(likelihood, one.expand(len(colours), -1, -1, -1), colours)
    for c in range(3):
        below = masses[c].cumsum(0).squeeze(-1).squeeze(-1)  # (256, N)
        value = colours[:, c, 0, 0].long()
        high = below.gather(0, value.unsqueeze(0))[0]
        width = masses[c, :, :, 0, 0].gather(0, value.unsqueeze(0))[0]
        # Randomised within its bin, the rank of a true sample is uniform.
        rank = high - torch.rand(len(high)).double() * width
        if name == "logistic":  # draws beyond the pixels fall on the outermost values
            inside = (value > 0) & (value < 255)
            low, top = below[0, 0], below[254, 0]
            rank = (rank[inside] - low) / (top - low)
        assert stats.kstest(rank.numpy(), "uniform").pvalue > 1e-3, c


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_mean_is_that_of_samples_where_the_edges_are_far(name):
    torch.manual_seed(0)
    likelihood = make(name)
    if name.startswith("logistic") and name != "logistic-pixel":
        set_log_scale(likelihood, [-4.0, -4.0, -4.0])
    one = random_parameters(likelihood, 1, 1, spread=0.03, seed=5)
    if name in ("mixture", "logistic-pixel"):  # scales of about e^-4
        per_group = likelihood.parameter_channels // (10 if name == "mixture" else 6)
        first = {"mixture": 4, "logistic-pixel": 3}[name] * per_group
        one[:, first : first + 3 * per_group] = -0.7
    drawn = pixels_to_reals(likelihood.sample(one.expand(-1, -1, 300, 300)))
    found = drawn.mean((0, 2, 3))
    error = drawn.flatten(2).std(2)[0] / 300
    expected = likelihood.mean(one)[0, :, 0, 0]
    assert ((found - expected).abs() < 4 * error + 2e-4).all()


@pytest.mark.parametrize("spread", [1.0, 100.0, 1e5])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_and_its_gradients_are_finite_at_extremes(name, spread):
    likelihood = make(name)
    parameters = random_parameters(likelihood, 2, 8, spread).requires_grad_()
    images = random_images(2, 3, 8, 8)
    images[0] = torch.tensor([0, 255]).repeat(32).view(8, 8)
    total = likelihood.log_prob(images, parameters)
    (gradient,) = torch.autograd.grad(total.sum(), parameters)
    assert total.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_of_log_prob_are_finite_differences(name):
    fewer = {"components": 2} if name == "mixture" else {}
    likelihood = make(name, **fewer).double()
    parameters = random_parameters(likelihood, 1, 2).double().requires_grad_()
    images = random_images(1, 3, 2, 2)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(images, p), parameters)


def test_logistic_noise_is_logistic_and_finite(monkeypatch):
    torch.manual_seed(0)
    noise = logistic_noise(torch.empty(10_000, dtype=torch.float64))
    assert noise.dtype == torch.float64
    assert stats.kstest(noise.numpy(), "logistic").pvalue > 1e-3
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.tensor([0.0, 0.5, 1.0]))
    low, middle, high = logistic_noise(torch.empty(3)).tolist()
    assert middle == 0 and low == pytest.approx(-13.8, abs=0.1)
    assert high == pytest.approx(13.8, abs=0.3)  # as near to 1 as float32 comes


# The mixture.


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_channel_moves_with_those_before_it(before):
    mean, coefficients = torch.tensor([0.1]), torch.tensor([[0.5, 0.25, -0.5]])
    red, green = torch.tensor([0.2]), torch.tensor([-0.4])
    expected = [0.1, 0.1 + 0.5 * 0.2, 0.1 + 0.25 * 0.2 + 0.5 * 0.4][before]
    assert coupled(mean, coefficients, [red, green][:before]).item() == pytest.approx(expected)


def mixture_by_hand(image, parameters, M):
    """log p of one pixel (3,) given its 10 M parameters: loops over components, in float64."""
    p = 3.0 * parameters.double().numpy().reshape(10, M)
    weights = np.exp(p[0] - p[0].max())
    weights /= weights.sum()
    first = np.linspace(-0.3, 0.3, M) if M > 1 else np.zeros(1)
    reals = (image.numpy().astype(float) + 0.5) / 256 - 0.5
    total = 0.0
    for i in range(M):
        of_red, red_in_blue, green_in_blue = np.tanh(p[7:, i])
        means = first[i] + p[1:4, i]
        means[1] += of_red * reals[0]
        means[2] += red_in_blue * reals[0] + green_in_blue * reals[1]
        product = weights[i]
        for c in range(3):
            # -8 + 9 / (1 + exp(-x)) is -2 with slope 1 at p = 0.
            scale = math.exp(-8 + 9 / (1 + 0.5 * math.exp(-p[4 + c, i] / 2)))
            distribution = stats.logistic(means[c], scale)
            value = int(image[c])
            low = 0.0 if value == 0 else distribution.cdf(value / 256 - 0.5)
            high = 1.0 if value == 255 else distribution.cdf((value + 1) / 256 - 0.5)
            product *= high - low
        total += product
    return math.log(total)


@pytest.mark.parametrize("M", [1, 3, 5])
def test_the_mixture_is_that_of_a_loop_over_its_components(M):
    likelihood = make("mixture", components=M)
    parameters, images = random_parameters(likelihood, 1, 6, 0.2), random_images(1, 3, 6, 6)
    images[0, :, 0, :3], images[0, 1, 1] = 0, 255
    found = likelihood.log_prob(images, parameters).item()
    pixels = images[0].flatten(1).T
    each = parameters[0].flatten(1).T
    expected = sum(mixture_by_hand(x, p, M) for x, p in zip(pixels, each, strict=True))
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_component_without_coefficients_is_a_scale_for_every_sub_pixel():
    one, alone = make("mixture", components=1), make("logistic-pixel")
    parameters, images = random_parameters(one, 2, 6), random_images(2, 3, 6, 6)
    without = parameters.clone()
    without[:, 7:] = 0
    expected = alone.log_prob(images, parameters[:, 1:7])
    torch.testing.assert_close(one.log_prob(images, without), expected)
    assert (one.log_prob(images, parameters) - expected).abs().min() > 1


def test_the_first_means_are_spread_and_scales_stay_in_their_bounds():
    likelihood = make("mixture")
    log_weights, means, log_scales, coefficients = likelihood.unpack(torch.zeros(1, 50, 1, 1))
    np.testing.assert_allclose(log_weights.exp().flatten(), 0.2, rtol=1e-6)
    for c in range(3):
        np.testing.assert_allclose(means[0, c].flatten(), [-0.3, -0.15, 0, 0.15, 0.3], atol=1e-6)
    np.testing.assert_allclose(log_scales.flatten(), -2, atol=1e-5)
    assert coefficients.abs().max() == 0
    for far, bound in ((-1e4, -8), (1e4, 1)):
        found = likelihood.unpack(torch.full((1, 50, 1, 1), far))[2]
        np.testing.assert_allclose(found.flatten(), bound, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("RRVQ_SLOW") != "1", reason="a minute; set RRVQ_SLOW=1")
@pytest.mark.parametrize("seed", [0, 1])
def test_all_colours_of_a_pixel_together_have_probability_one(seed):
    likelihood = make("mixture", components=3)
    one = random_parameters(likelihood, 1, 1, 0.3, seed)
    green, blue = torch.meshgrid(VALUES, VALUES, indexing="ij")
    total = 0.0
    for red in VALUES:
        colours = torch.stack((red.expand_as(green), green, blue)).unsqueeze(0)  # (1, 3, 256, 256)
        masses = likelihood.log_masses(colours, one.expand(-1, -1, 256, 256))
        total += masses.double().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-4)

"""FSQ's numbers against its paper's listing in NumPy, and against its printed example."""

import math

import numpy as np
import pytest
import torch
from helpers import lively, normal, random_images

from rrvqlib.latents import ScalarLatent, channels_last
from rrvqlib.settings import ModelSettings, changed

LEVELS = [(8, 6, 5), (8, 8), (2,), (3, 2), (5, 4, 7)]
each = pytest.mark.parametrize("levels", LEVELS)


def by_listing(z, levels, eps=1e-3):
    """Vectors and indices as in App. A.1 of the paper: (..., D) -> (..., D), (...)."""
    levels = np.array(levels)
    half_l = (levels - 1) * (1 - eps) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    rounded = np.round(np.tanh(z + np.tan(offset / half_l)) * half_l - offset)
    basis = np.concatenate(([1], np.cumprod(levels[:-1])))
    half_width = levels // 2
    return rounded / half_width, ((rounded + half_width) * basis).sum(-1).astype(int)


def quantised(features, levels):
    """(N, D) -> the draw's vectors (N, D) and codes (N,)."""
    maps = features.unsqueeze(-1).unsqueeze(-1)
    draw = ScalarLatent(levels).draw(maps, maps[:, :0], None)
    return draw.vectors.flatten(1), draw.codes.flatten()


def test_the_example_of_the_authors_notebook():
    vectors, codes = quantised(torch.tensor([[0.25, 0.6, -7.0]]), (3, 5, 4))
    assert vectors.tolist() == [[0.0, 0.5, -1.0]] and codes.tolist() == [10]


@each
def test_vectors_and_codes_are_those_of_the_listing(levels):
    features = 2 * normal(5000, len(levels))
    vectors, codes = quantised(features, levels)
    expected, indices = by_listing(features.double().numpy(), levels)
    near = np.isclose(vectors.numpy(), expected).all(1)
    assert near.mean() > 0.999  # float32 may round the other way at an edge
    np.testing.assert_array_equal(codes.numpy()[near], indices[near])


@each
def test_every_code_is_reached_and_none_beside_them(levels):
    K, D = math.prod(levels), len(levels)
    _, codes = quantised(torch.cartesian_prod(*D * [torch.linspace(-4, 4, 41)]).view(-1, D), levels)
    assert codes.unique().tolist() == list(range(K))
    extreme = torch.tensor([-1e6, -50.0, 50.0, 1e6]).unsqueeze(1).expand(-1, D)
    _, codes = quantised(extreme, levels)
    assert codes.tolist() == [0, 0, K - 1, K - 1]


@each
def test_a_vector_has_so_many_values_between_minus_one_and_one(levels):
    latent = ScalarLatent(levels)
    vectors = latent.lookup(torch.arange(latent.values).view(1, -1, 1, 1))[0, :, :, 0]
    for row, count in zip(vectors, levels, strict=True):
        assert len(row.unique()) == count and row.min() == -1
        assert row.max() == 1 if count % 2 else row.max() == 1 - 2 / count


def test_zero_is_in_the_middle():
    """What the shift is for: an even number of levels has no middle but 0 still means one."""
    for levels in range(3, 10):
        assert ScalarLatent((levels,)).bound(torch.zeros(1)).abs() < 0.03


@each
def test_the_gradient_is_that_of_the_bounded_numbers(levels):
    latent, D = ScalarLatent(levels), len(levels)
    features, slope = normal(4, D, 2, 3).requires_grad_(), normal(4, D, 2, 3, seed=1)
    draw = latent.draw(features, features[:, :0], torch.tensor(0.5))
    (found,) = torch.autograd.grad((draw.vectors * slope).sum(), features)
    smooth = latent.bound(channels_last(features)) / latent.half_width
    (expected,) = torch.autograd.grad((smooth * channels_last(slope)).sum(), features)
    torch.testing.assert_close(found, expected)
    assert found.abs().min() > 0


@pytest.mark.parametrize("temperature", [None, torch.tensor(0.5)])
def test_every_code_costs_the_logarithm_of_their_number(temperature):
    features = normal(3, 2, 4, 5)
    draw = ScalarLatent((8, 8)).draw(features, features[:, :0], temperature)
    torch.testing.assert_close(draw.kl, torch.full((3, 4, 5), math.log(64)))
    torch.testing.assert_close(draw.log_ratio, torch.full((3,), -20 * math.log(64)))
    assert draw.vq_loss is None  # no codebook to draw anything to


def test_samples_are_uniform():
    latent = ScalarLatent((3, 2))
    torch.manual_seed(0)
    codes = latent.codes_of(latent.sample(torch.empty(3000, 0, 2, 2), 0.0))
    counts = torch.bincount(codes.flatten(), minlength=6) - 2000.0
    assert counts.square().sum() / 2000 < 25  # chi-square, 5 degrees of freedom: 1 in 7,000


def test_a_number_that_is_none_still_has_a_symbol():
    latent, nothing = ScalarLatent((8, 6, 5)), torch.full((1, 3, 1, 1), math.nan)
    draw = latent.draw(nothing, nothing[:, :0], None)
    assert 0 <= draw.codes.item() < 240 and draw.vectors.isnan().all()


def test_nothing_of_the_quantiser_is_learnt_or_stored():
    settings = changed(ModelSettings(), model="one-layer", pyramid=(8,), latent="scalar")
    model = lively(settings)
    assert settings.alphabets == [(1, 240)]
    assert settings.rate_ceiling == pytest.approx(64 * math.log2(240) / 3072)
    assert not [name for name in model.state_dict() if name.startswith("latent.")]
    terms = model(random_images(2, 32))
    torch.testing.assert_close(terms.kl, torch.full((2, 1), 64 * math.log(240)))
    torch.testing.assert_close(terms.elbo, terms.log_weight)

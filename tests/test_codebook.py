"""Codebooks: shapes, normalisers, nearest codes, k-means, moving averages, dead codes."""

import math

import numpy as np
import pytest
import torch
from helpers import COVARIANCES, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from rrvqlib.latents.codebook import Codebook, nearest_codes
from rrvqlib.latents.codebook_average import CodebookAverage

EXACT = settings(derandomize=True, deadline=None, max_examples=40)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_variances_start_at_one_and_have_the_shape_of_their_covariance(covariance):
    codebook = Codebook(5, 3, covariance)
    assert codebook.means.shape == (5, 3)
    if covariance == "fixed":
        assert codebook.log_variances is None
    else:
        assert codebook.log_variances.shape == ((5, 3) if covariance == "diagonal" else (5,))
        assert (codebook.log_variances == 0).all()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"covariance": "istropic"}, "covariance 'istropic': must be one of isotropic, diagonal"),
        ({"init": "uint"}, "init 'uint': must be one of normal, unit, kmeans"),
    ],
)
def test_a_typo_is_refused_with_the_choices(given, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        Codebook(5, 3, **given)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_log_normaliser_is_the_log_determinant_of_the_covariance_matrix(covariance):
    codebook = Codebook(4, 3, covariance)
    with torch.no_grad():
        codebook.raw_log_variances.copy_(normal(*codebook.raw_log_variances.shape))
    variances = codebook.log_variances.detach().double().exp().numpy()
    for k in range(4):
        matrix = np.diag(np.broadcast_to(variances[k], 3))
        sign, log_det = np.linalg.slogdet(matrix)
        assert sign == 1
        assert codebook.log_normaliser[k].item() == pytest.approx(log_det, abs=1e-5)


def test_as_printed_has_the_normaliser_of_one_dimension():
    codebook = Codebook(4, 3, "as_printed")
    with torch.no_grad():
        codebook.raw_log_variances.copy_(normal(4))
    assert torch.equal(codebook.log_normaliser, codebook.log_variances)


def test_a_fixed_codebook_has_no_normaliser():
    with pytest.raises(ValueError, match="no normaliser"):
        _ = Codebook(4, 3, "fixed").log_normaliser


def test_log_variances_are_clamped():
    codebook = Codebook(3, 2)
    with torch.no_grad():
        codebook.raw_log_variances.copy_(torch.tensor([-70.0, 1.0, 70.0]))
    assert codebook.log_variances.tolist() == [-5.0, 1.0, 5.0]


@pytest.mark.parametrize(("init", "std"), [("normal", 64**-0.5), ("unit", 1.0)])
def test_means_start_with_the_standard_deviation_of_their_init(init, std):
    torch.manual_seed(0)
    means = Codebook(500, 64, init=init).means
    assert means.std().item() == pytest.approx(std, rel=0.02)
    assert means.square().sum(1).mean().sqrt().item() == pytest.approx(std * 8, rel=0.02)


@EXACT
@given(
    K=st.integers(1, 12),
    D=st.integers(1, 9),
    shift=st.sampled_from([0.0, 3.0, 1000.0]),
    seed=st.integers(0, 10_000),
)
def test_nearest_codes_are_those_of_numpy_in_float64(K, D, shift, seed):
    features = normal(2, 7, D, seed=seed) + shift
    means = normal(K, D, seed=seed + 1) + shift
    chosen = nearest_codes(features, means)
    assert chosen.shape == (2, 7) and chosen.dtype == torch.int64
    differences = features.double().numpy()[..., None, :] - means.double().numpy()
    squares = (differences**2).sum(-1)
    picked = np.take_along_axis(squares, chosen.numpy()[..., None], -1)[..., 0]
    # Near ties may fall either way.
    np.testing.assert_allclose(picked, squares.min(-1), atol=2e-3 if shift == 1000 else 1e-5)


def test_kmeans_finds_separated_clusters():
    centres = 10 * torch.eye(4)
    features = (centres[:, None] + 0.1 * normal(4, 200, 4)).flatten(0, 1)
    for seed in range(20):  # a start with a point in each cluster, as k-means needs
        torch.manual_seed(seed)
        if len({i // 200 for i in torch.randperm(800)[:4].tolist()}) == 4:
            break
    torch.manual_seed(seed)
    codebook = Codebook(4, 4)
    torch.manual_seed(seed)
    codebook.kmeans_(features)
    found = codebook.means.detach()[nearest_codes(centres, codebook.means)]
    averages = features.view(4, 200, 4).mean(1)
    torch.testing.assert_close(found, averages, atol=1e-5, rtol=0)


def test_kmeans_ends_nearer_to_the_features_than_it_started():
    features = normal(300, 5)

    def distortion(iterations):
        torch.manual_seed(0)
        codebook = Codebook(8, 5)
        codebook.kmeans_(features, iterations)
        return torch.cdist(features, codebook.means).min(1).values.square().mean().item()

    scores = [distortion(n) for n in (0, 1, 2, 5, 20)]
    assert scores == sorted(scores, reverse=True) and scores[-1] < 0.8 * scores[0]


def test_kmeans_with_fewer_features_than_codes_keeps_codes_apart():
    codebook = Codebook(16, 3)
    codebook.kmeans_(normal(5, 3))
    assert codebook.means.isfinite().all()
    assert len(codebook.means.detach().unique(dim=0)) == 16


def numpy_average(means, batches, decay, dead_code_threshold=0.0):
    """Oord et al. 2017, App. A.1, written out code by code."""
    K = len(means)
    counts = [max(1.0, 2 * dead_code_threshold)] * K
    sums = [counts[k] * means[k] for k in range(K)]
    for features, codes in batches:
        for k in range(K):
            chose = features[codes == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(chose)
            sums[k] = decay * sums[k] + (1 - decay) * chose.sum(0)
    total = sum(counts)
    smoothed = [(c + 1e-5) / (total + K * 1e-5) * total for c in counts]
    return np.stack([sums[k] / smoothed[k] for k in range(K)]), np.array(counts)


@EXACT
@given(
    K=st.integers(1, 6),
    decay=st.floats(0.3, 0.99),
    steps=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_moving_averages_are_those_of_numpy(K, decay, steps, seed):
    codebook = Codebook(K, 3, "fixed")
    with torch.no_grad():
        codebook.means.copy_(normal(K, 3, seed=seed))
    average = CodebookAverage(codebook, decay, 0.0, learn=True)
    start = codebook.means.detach().double().numpy().copy()
    rng = np.random.default_rng(seed)
    batches = [
        (rng.normal(size=(9, 3)).astype(np.float32), rng.integers(0, K, 9)) for _ in range(steps)
    ]
    for features, codes in batches:
        average.update(codebook, torch.from_numpy(features), torch.from_numpy(codes))
    means, counts = numpy_average(start, batches, decay)
    np.testing.assert_allclose(codebook.means.detach().numpy(), means, atol=2e-5)
    np.testing.assert_allclose(average.counts.numpy(), counts, rtol=1e-5)


def test_moving_averages_settle_at_the_means_of_the_features():
    features = torch.tensor([[4.0, 0.0], [6.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    codebook = Codebook(2, 2, "fixed")
    average = CodebookAverage(codebook, 0.9, 0.0, learn=True)
    for _ in range(200):
        average.update(codebook, features, torch.tensor([0, 0, 1, 1]))
    expected = torch.tensor([[5.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(codebook.means.detach(), expected, atol=1e-4, rtol=0)


def test_codes_learnt_by_a_loss_are_only_counted():
    codebook = Codebook(3, 2, "fixed")
    before = codebook.means.detach().clone()
    average = CodebookAverage(codebook, 0.5, 0.0, learn=False)
    average.update(codebook, normal(8, 2), torch.zeros(8, dtype=torch.int64))
    assert torch.equal(codebook.means, before) and codebook.means.requires_grad
    assert average.counts.tolist() == pytest.approx([4.5, 0.5, 0.5])


@pytest.mark.parametrize("learn", [True, False])
def test_a_dead_code_restarts_at_a_feature_and_its_averages_restart_with_it(learn):
    codebook = Codebook(3, 2, "fixed")
    average = CodebookAverage(codebook, 0.5, 0.1, learn=learn)
    features = normal(6, 2) + 50
    codes = torch.tensor([0, 0, 0, 1, 1, 1])  # code 2 is never chosen: 1 -> 1/2 -> ... < 0.1
    for _ in range(3):
        average.update(codebook, features, codes)
        assert codebook.means[2].norm() < 20
    average.update(codebook, features, codes)
    revived = codebook.means.detach()[2].clone()
    assert (features == revived).all(1).any()
    assert average.counts[2] >= 0.2
    torch.testing.assert_close(average.sums[2] / average.counts[2], revived)
    average.update(codebook, features, codes)
    torch.testing.assert_close(codebook.means.detach()[2], revived, atol=1e-2, rtol=0)


def test_without_a_threshold_no_code_restarts():
    codebook = Codebook(3, 2, "fixed")
    average = CodebookAverage(codebook, 0.5, 0.0, learn=False)
    before = codebook.means.detach().clone()
    for _ in range(60):
        average.update(codebook, normal(4, 2) + 50, torch.zeros(4, dtype=torch.int64))
    assert torch.equal(codebook.means, before)


@pytest.mark.parametrize("dead_code_threshold", [0.1, 3.0])
def test_fresh_codes_survive_their_first_step(dead_code_threshold):
    codebook = Codebook(3, 2, "fixed")
    average = CodebookAverage(codebook, 0.99, dead_code_threshold, learn=True)
    before = codebook.means.detach().clone()
    average.update(codebook, normal(4, 2) + 50, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(codebook.means.detach()[1:], before[1:], atol=1e-3, rtol=1e-3)


def test_averages_that_are_reset_follow_means_set_from_outside():
    codebook = Codebook(3, 2, "fixed")
    average = CodebookAverage(codebook, 0.99, 0.0, learn=True)
    elsewhere = normal(3, 2) + 30
    with torch.no_grad():
        codebook.means.copy_(elsewhere)
    average.reset(codebook)
    average.update(codebook, elsewhere.clone(), torch.arange(3))
    torch.testing.assert_close(codebook.means.detach(), elsewhere, atol=1e-2, rtol=0)
    assert math.isclose(average.counts.sum().item(), 3, rel_tol=1e-5)


def test_kmeans_of_a_single_number_is_that_number():
    codebook = Codebook(3, 1)
    codebook.kmeans_(torch.full((1, 1), 0.5))
    assert codebook.means.flatten().tolist() == pytest.approx([0.5] * 3)

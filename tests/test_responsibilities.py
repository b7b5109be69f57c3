"""Responsibilities against Eq. (1), (2) and (6) written out, and against torch.distributions."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import COVARIANCES, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rrvqlib.latents.codebook import Codebook, nearest_codes
from rrvqlib.latents.responsibilities import log_nearest, log_relaxed, log_responsibilities

EXACT = settings(derandomize=True, deadline=None, max_examples=30)
QUANTISERS = (log_nearest, log_relaxed, log_responsibilities)


def codebook_of(means, log_variances=None, covariance="isotropic"):
    codebook = Codebook(*means.shape, covariance)
    with torch.no_grad():
        codebook.means.copy_(means)
        if codebook.raw_log_variances is not None:
            codebook.raw_log_variances.copy_(log_variances)
    return codebook


def random_codebook(K, D, covariance, seed=0, spread=0.5):
    shape = {"diagonal": (K, D), "shared": (1,)}.get(covariance, (K,))
    return codebook_of(normal(K, D, seed=seed), spread * normal(*shape, seed=seed + 1), covariance)


def numpy_log_responsibilities(features, codebook):
    """Eq. (6) in float64, term by term; no matrix product, nothing expanded."""
    e = features.double().numpy()[..., None, :]
    means = codebook.means.detach().double().numpy()
    K, D = means.shape
    squares = (e - means) ** 2  # (..., K, D)
    if codebook.covariance == "fixed":
        logits = -squares.sum(-1) / 2
    else:
        s = np.exp(codebook.log_variances.detach().double().numpy())
        if codebook.covariance == "diagonal":
            logits = -(squares / (2 * s)).sum(-1) - np.log(np.prod(s, axis=1)) / 2
        else:
            power = D if codebook.covariance == "isotropic" else 1
            logits = -squares.sum(-1) / (2 * s) - np.log(s) * power / 2
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@pytest.mark.parametrize("covariance", COVARIANCES)
@EXACT
@given(
    K=st.integers(1, 9),
    D=st.integers(1, 7),
    size=st.floats(0, 20),
    seed=st.integers(0, 10_000),
)
def test_responsibilities_are_those_of_numpy_in_float64(covariance, K, D, size, seed):
    codebook = random_codebook(K, D, covariance, seed)
    features = size * normal(2, 3, D, seed=seed + 2)
    found = log_responsibilities(features, codebook).detach()
    assert found.shape == (2, 3, K) and found.dtype == torch.float32
    expected = numpy_log_responsibilities(features, codebook)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3, rtol=2e-5)
    np.testing.assert_allclose(found.exp().sum(-1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "fixed"])
def test_responsibilities_are_bayes_rule_in_the_mixture_of_torch_distributions(covariance):
    K, D = 6, 4
    codebook = random_codebook(K, D, covariance)
    features = 2 * normal(10, D, seed=5)
    variances = torch.ones(K, D, dtype=torch.float64)
    if covariance != "fixed":
        s = codebook.log_variances.detach().double().exp()
        variances = s if covariance == "diagonal" else s[:, None].expand(K, D)
    components = MultivariateNormal(codebook.means.detach().double(), torch.diag_embed(variances))
    mixture = MixtureSameFamily(Categorical(torch.ones(K).double()), components)
    e = features.double()
    joint = components.log_prob(e[:, None]) - math.log(K)
    expected = joint - mixture.log_prob(e)[:, None]
    found = log_responsibilities(features, codebook).double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "as_printed"])
@EXACT
@given(log_variance=st.floats(-3, 3), seed=st.integers(0, 10_000))
def test_equal_variances_give_back_relaxed_vq_with_distances_divided_by_them(
    covariance, log_variance, seed
):
    codebook = random_codebook(5, 3, covariance, seed)
    with torch.no_grad():
        codebook.raw_log_variances.fill_(log_variance)
    features = normal(8, 3, seed=seed + 2)
    distances = torch.cdist(features.double(), codebook.means.double()).square()
    expected = (-distances / 2 / math.exp(log_variance)).log_softmax(-1)
    found = log_responsibilities(features, codebook).double()
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)
    if log_variance == 0:
        relaxed = log_relaxed(features, codebook).double()
        torch.testing.assert_close(found, relaxed, atol=1e-5, rtol=0)


def test_variance_one_is_relaxed_vq():
    features = normal(20, 3)
    fixed = random_codebook(5, 3, "fixed")
    unit = codebook_of(fixed.means, torch.zeros(5))
    expected = log_relaxed(features, fixed)
    torch.testing.assert_close(log_responsibilities(features, unit), expected)
    assert torch.equal(log_responsibilities(features, fixed), expected)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_code_has_all_responsibility(covariance):
    found = log_responsibilities(100 * normal(5, 3), random_codebook(1, 3, covariance))
    assert (found == 0).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_shift_of_everything_by_1000_changes_nothing(covariance):
    codebook = random_codebook(16, 8, covariance)
    features = normal(50, 8, seed=3)
    shifted = codebook_of(codebook.means + 1000, codebook.raw_log_variances, covariance)
    there = log_responsibilities(features + 1000, shifted)
    here = log_responsibilities(features, codebook)
    # float32 itself moves a coordinate near 1000 by up to 3e-5.
    torch.testing.assert_close(there, here, atol=5e-3, rtol=0)
    exact = numpy_log_responsibilities(features + 1000, shifted)
    np.testing.assert_allclose(there.detach().numpy(), exact, atol=1e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float32_is_within_a_thousandth_of_a_nat_far_from_the_codes(covariance):
    codebook = random_codebook(256, 128, covariance, spread=0.1)
    features = 3 * normal(100, 128, seed=3)
    found = log_responsibilities(features, codebook).detach().numpy()
    errors = np.abs(found - numpy_log_responsibilities(features, codebook))
    assert errors.max() < 1e-3


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_autocast_to_bfloat16_changes_nothing(quantiser, covariance):
    codebook = random_codebook(64, 32, covariance)
    features = (3 * normal(50, 32, seed=3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = quantiser(features, codebook)
    assert found.dtype == torch.float32
    assert torch.equal(found, quantiser(features.float(), codebook))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_features_of_the_wrong_size_are_refused(quantiser, covariance):
    with pytest.raises(ValueError, match="features have D=4, the codebook has D=3"):
        quantiser(normal(5, 4), Codebook(6, 3, covariance))


def test_nearest_is_one_hot_on_the_nearest_code():
    codebook, features = random_codebook(5, 3, "fixed"), normal(4, 6, 3, seed=2)
    posterior = log_nearest(features, codebook).exp()
    assert ((posterior == 0) | (posterior == 1)).all() and (posterior.sum(-1) == 1).all()
    distances = (features[..., None, :] - codebook.means).square().sum(-1)
    assert torch.equal(posterior.argmax(-1), distances.argmin(-1))
    assert torch.equal(posterior.argmax(-1), log_relaxed(features, codebook).argmax(-1))
    assert torch.equal(posterior.argmax(-1), nearest_codes(features, codebook.means))


@pytest.mark.parametrize(("radius", "winner"), [(0.1, 0), (20.0, 1)])
def test_far_from_equal_codes_the_widest_wins_and_near_them_the_narrowest(radius, winner):
    codebook = codebook_of(torch.zeros(2, 32), torch.tensor([0.5, 2.0]).log())
    direction = torch.nn.functional.normalize(normal(32), dim=0)
    assert log_responsibilities(radius * direction, codebook).argmax() == winner


@pytest.mark.parametrize(
    ("covariance", "D", "radius"),
    [
        ("as_printed", 32, 0.96),
        ("as_printed", 128, 0.96),
        ("isotropic", 32, 5.44),
        ("diagonal", 32, 5.44),
        ("isotropic", 128, 10.88),
    ],
)
def test_radius_at_which_the_narrow_code_gives_way(covariance, D, radius):
    """Codes with one mean and variances 1/2 and 2; the normaliser decides where they meet."""
    log_variances = torch.tensor([0.5, 2.0]).log()
    if covariance == "diagonal":
        log_variances = log_variances[:, None].expand(2, D)
    codebook = codebook_of(torch.zeros(2, D), log_variances, covariance)
    direction = torch.nn.functional.normalize(normal(D), dim=0)
    low, high = 0.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        narrow, wide = log_responsibilities(middle * direction, codebook)
        low, high = (middle, high) if narrow > wide else (low, middle)
    assert low == pytest.approx(radius, abs=0.005)


@pytest.mark.parametrize(("covariance", "divisor"), [("as_printed", 1), ("isotropic", 8)])
def test_variance_that_explains_a_residual_best(covariance, divisor):
    """It is r^2 / D with the normaliser of a density in D = 8 dimensions, r^2 as printed."""
    D, r_squared = 8, 6.0
    codebook = codebook_of(torch.zeros(2, D), torch.zeros(2), covariance)
    features = math.sqrt(r_squared / D) * torch.ones(D)
    optimizer = torch.optim.LBFGS([codebook.raw_log_variances], max_iter=100)

    def loss():
        optimizer.zero_grad()
        found = log_responsibilities(features, codebook)
        value = found[1] - found[0]  # against a code whose variance stays 1
        value.backward()
        codebook.raw_log_variances.grad[1] = 0
        return value

    optimizer.step(loss)
    best, other = codebook.log_variances.exp().tolist()
    assert other == 1
    assert best == pytest.approx(r_squared / divisor, rel=1e-3)


@pytest.mark.parametrize(("distance", "entropy"), [(10, 5.39), (20, 2.6e-4), (30, 8e-14)])
def test_one_slightly_wider_code_takes_all_when_far(distance, entropy):
    log_variances = torch.zeros(256)
    log_variances[0] = math.log(1.1)
    codebook = codebook_of(torch.zeros(256, 32), log_variances)
    features = torch.zeros(32)
    features[0] = distance
    log_p = log_responsibilities(features, codebook).double()
    found = -(log_p.exp() * log_p).sum().item()
    assert found == pytest.approx(entropy, rel=0.06)


def test_equidistant_codes_are_equally_responsible():
    codebook = codebook_of(2 * torch.eye(7), torch.full((7,), 0.3))
    log_p = log_responsibilities(torch.zeros(7), codebook)
    assert log_p.tolist() == pytest.approx([-math.log(7)] * 7, abs=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gradients_are_those_of_the_formula_written_out(covariance):
    codebook = random_codebook(5, 3, covariance)
    features = normal(6, 3, seed=9).requires_grad_()
    weights = normal(6, 5, seed=10)
    inputs = [features, *codebook.parameters()]
    found = torch.autograd.grad((log_responsibilities(features, codebook) * weights).sum(), inputs)
    squares = (features[:, None] - codebook.means).square()  # (N, K, D)
    if covariance == "fixed":
        logits = -squares.sum(-1) / 2
    else:
        log_s = codebook.log_variances
        s = (log_s if covariance == "diagonal" else log_s[:, None]).exp()
        logits = -(squares / s).sum(-1) / 2 - codebook.log_normaliser / 2
    expected = torch.autograd.grad((logits.log_softmax(-1) * weights).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run the figure's script")
@pytest.mark.parametrize("size", [2, 16, 64])
@pytest.mark.parametrize("covariance", ["isotropic", "as_printed", "fixed"])
def test_the_figure_of_chapter_4_computes_the_same(covariance, size):
    chapter = Path(__file__).parent.parent / "book" / "04-relaxed-responsibilities.ipynb"
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    page = "".join("".join(cell["source"]) for cell in cells)
    script = re.search(r"// responsibility-maths.*?// end of responsibility-maths", page, re.S)
    torch.manual_seed(0)
    codebook, points = Codebook(5, size, covariance), torch.zeros(20, size)
    log_variances = torch.randn(5)
    codebook.means.data.zero_()[:, :2] = 2 * torch.randn(5, 2)
    points[:, :2] = 3 * torch.randn(20, 2)
    if covariance != "fixed":
        codebook.raw_log_variances.data.copy_(log_variances)
    codes = [
        {"x": x, "y": y, "logVariance": v}
        for (x, y), v in zip(codebook.means[:, :2].tolist(), log_variances.tolist(), strict=True)
    ]
    call = (
        f"{script.group(0)}\nconsole.log(JSON.stringify({json.dumps(points[:, :2].tolist())}"
        f".map(p => logResponsibilities(p, {json.dumps(codes)}, '{covariance}', {size}))))"
    )
    done = subprocess.run(["node", "-e", call], capture_output=True, text=True, check=True)
    theirs = torch.tensor(json.loads(done.stdout))
    torch.testing.assert_close(
        theirs, log_responsibilities(points, codebook).detach(), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float64_stays_float64(quantiser, covariance):
    codebook = random_codebook(6, 3, covariance)
    features = normal(50, 3, seed=2)
    found = quantiser(features.double(), codebook.double())
    assert found.dtype == torch.float64
    expected = quantiser(features, codebook.float())
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)


def test_the_nearest_code_in_float64_is_not_that_of_rounded_features():
    """Coding is in float64: 1 + 1e-9 is nearer to the second of the codes 0 and 2."""
    codebook = codebook_of(torch.tensor([[0.0], [2.0]]), covariance="fixed").double()
    features = torch.tensor([[1 + 1e-9], [1 - 1e-9]], dtype=torch.float64)
    assert log_nearest(features, codebook).argmax(-1).tolist() == [1, 0]

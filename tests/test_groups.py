"""Several codebooks at a position against as many models of one; the image's own grid."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import COVARIANCES, PRIORS, normal
from hypothesis import given
from hypothesis import strategies as st

from rrvqlib.errors import UserError
from rrvqlib.latents import (
    RelaxedLatent,
    draws,
    log_nearest,
    log_relaxed,
    log_responsibilities,
    nearest_codes,
)
from rrvqlib.latents.codebook import Codebook
from rrvqlib.models import build
from rrvqlib.models.batched_weights import BatchedWeights
from rrvqlib.settings import ModelSettings, changed

G, K, D = 3, 5, 12
WARM = torch.tensor(0.7)


def grouped(covariance="isotropic", G=G):
    torch.manual_seed(0)
    book = Codebook(K, D, covariance, "unit", G)
    if book.raw_log_variances is not None:
        with torch.no_grad():
            book.raw_log_variances.copy_(0.4 * torch.randn(book.raw_log_variances.shape))
    return book


def parts(book):
    """The groups of a codebook, each as a codebook of its own."""
    found = []
    for g in range(book.groups):
        own = Codebook(K, D // book.groups, book.covariance, "unit")
        with torch.no_grad():
            own.means.copy_(book.means[g])
            if book.raw_log_variances is not None:
                own.raw_log_variances.copy_(book.raw_log_variances[g])
        found.append(own)
    return found


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("function", [log_nearest, log_relaxed, log_responsibilities])
def test_each_group_is_a_codebook_for_its_part(function, covariance):
    book = grouped(covariance)
    features = normal(2, 7, D)
    found = function(features, book)
    assert found.shape == (2, 7, G, K)
    wanted = [
        function(part, own) for part, own in zip(features.chunk(G, -1), parts(book), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted, -2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("temperature", [None, WARM])
def test_a_draw_is_that_of_groups_side_by_side(prior, temperature):
    latent = RelaxedLatent(grouped(), prior)
    e, parameters = normal(2, D, 3, 4), normal(2, latent.prior_size, 3, 4, seed=1)
    draw = latent.draw(e, parameters, temperature)
    assert draw.codes.shape == (2, 3, 4, G)
    torch.testing.assert_close(draw.vectors, latent.lookup(draw.codes), atol=1e-5, rtol=0)
    assert torch.equal(latent.codes_of(draw.vectors), draw.codes)
    kl, ratio = torch.zeros(2, 3, 4), torch.zeros(2)
    split = e.chunk(G, 1), parameters.chunk(G, 1), parts(latent.codebook)
    for g, (own_e, own_parameters, book) in enumerate(zip(*split, strict=True)):
        own = RelaxedLatent(book, prior)
        log_q, log_p = own.log_posterior(own_e), own.log_prior(own_parameters)
        kl += (log_q.exp() * (log_q - log_p)).sum((-2, -1))
        codes = draw.codes[..., g, None, None]
        ratio += (log_p - log_q).gather(-1, codes).flatten(1).sum(1)
    torch.testing.assert_close(draw.kl, kl, atol=1e-5, rtol=1e-5)
    if temperature is None:
        torch.testing.assert_close(draw.log_ratio, ratio, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("relaxation", sorted(draws.RELAXATIONS))
def test_a_relaxed_draw_of_groups_is_one_of_each(relaxation, monkeypatch):
    monkeypatch.setattr(draws, "gumbel_noise", lambda like: 0.5 * like.detach().sin())
    relaxed = draws.RELAXATIONS[relaxation]
    book = grouped()
    log_p = normal(6, G, K).log_softmax(-1).requires_grad_()
    vectors, codes = relaxed(log_p, book.means, WARM)
    vectors.square().sum().backward()
    for g, own in enumerate(parts(book)):
        alone = log_p[:, g].detach().requires_grad_()
        same, own_codes = relaxed(alone, own.means, WARM)
        same.square().sum().backward()
        torch.testing.assert_close(vectors[:, g], same)
        assert torch.equal(codes[:, g], own_codes)
        torch.testing.assert_close(log_p.grad[:, g], alone.grad)
        torch.testing.assert_close(book.means.grad[g], own.means.grad)


def test_groups_of_two_codes_are_bits():
    """G = D and K = 2: the same number of states as bits, counted in the same way."""
    bits = changed(ModelSettings(), latent="binary", embedding_dim=6, pyramid=(4, 2))
    codes = changed(
        ModelSettings(), embedding_dim=6, pyramid=(4, 2), codebook_size=2, groups=6, image_size=32
    )
    one = changed(codes, groups=1, codebook_size=2**6)
    assert codes.alphabets == bits.alphabets == [(6, 2), (6, 2)]
    assert codes.rate_ceiling == bits.rate_ceiling == pytest.approx(one.rate_ceiling)
    assert build(codes).latents[0].symbols == build(bits).latents[0].symbols == 6


def test_codebooks_start_from_their_part_of_the_features():
    book, features = grouped(), normal(200, D)
    separate = parts(book)
    torch.manual_seed(1)
    book.kmeans_(features)
    torch.manual_seed(1)
    for g, own in enumerate(separate):
        own.kmeans_(features.chunk(G, 1)[g])
        torch.testing.assert_close(book.means[g], own.means)


def test_prepared_terms_are_those_of_each():
    settings = changed(
        ModelSettings(), pyramid=(4, 4, 2), groups=2, embedding_dim=8, codebook_size=3, channels=4
    )
    model = build(settings)
    books = [latent.codebook for latent in model.latents]
    wanted = [book.terms for book in books]
    with BatchedWeights(model, torch.float32).in_use():
        for book, terms in zip(books, wanted, strict=True):
            assert book.prepared is not None
            for name in ("centre", "weights", "biases"):
                torch.testing.assert_close(getattr(book.prepared, name), getattr(terms, name))


def test_groups_must_divide_the_size_of_a_vector():
    with pytest.raises(ValueError, match="embedding_dim 12 is no multiple of groups 5"):
        Codebook(K, D, groups=5)
    with pytest.raises(UserError, match="groups=5: must divide embedding_dim, 12"):
        changed(ModelSettings(), embedding_dim=12, groups=5)


def test_a_second_stage_wants_one_code_a_position():
    with pytest.raises(UserError, match=r"second_stage=.*one code \(groups 1\)"):
        changed(ModelSettings(), model="one-layer", pyramid=(4,), groups=2, second_stage="pixelcnn")


@pytest.mark.parametrize("model", ["hierarchy", "one-layer"])
def test_latents_may_be_as_fine_as_the_image(model):
    pyramid = (8, 8, 4) if model == "hierarchy" else (8,)
    settings = changed(
        ModelSettings(), model=model, image_size=8, pyramid=pyramid, channels=4, codebook_size=3
    )
    model = build(settings)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    model.initialise(images)
    terms = model(images, None)
    assert terms.kl_maps[0].shape == (3, 8, 8) and terms.elbo.isfinite().all()
    assert model.sample(2).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match="must stay or halve from the image's side"):
        changed(settings, pyramid=(16, *pyramid[1:]))


# ReinMax.


def mean_gradient(relaxed, f, logits, means, temperature, monkeypatch):
    """The gradient that draws give in the mean, by adding up all codes."""
    total = torch.zeros_like(logits)
    for code, p in enumerate(logits.softmax(-1)):
        monkeypatch.setattr(draws, "categorical", lambda log_p, code=code: torch.tensor([code]))
        own = logits.clone().requires_grad_()
        vectors, _ = relaxed(own.log_softmax(-1)[None], means, temperature)
        (gradient,) = torch.autograd.grad(f(vectors[0]), own)
        total += p * gradient
    return total


def true_gradient(f, logits, means):
    own = logits.clone().requires_grad_()
    mean = sum(p * f(E) for p, E in zip(own.softmax(-1), means, strict=True))
    return torch.autograd.grad(mean, own)[0]


@given(codes=st.integers(2, 6), size=st.integers(1, 4), seed=st.integers(0, 1000))
def test_reinmax_is_right_in_the_mean_where_f_is_quadratic(codes, size, seed):
    logits, means = (normal(codes, seed=seed).double(), normal(codes, size, seed=seed + 1).double())
    curvature, slope = normal(size, size, seed=seed + 2).double(), normal(size, seed=seed + 3)

    def f(vector):
        return vector @ curvature @ vector + slope.double() @ vector

    with pytest.MonkeyPatch.context() as patch:
        found = mean_gradient(draws.reinmax_vectors, f, logits, means, 1.0, patch)
    torch.testing.assert_close(found, true_gradient(f, logits, means), atol=1e-9, rtol=1e-7)


def test_beyond_quadratics_it_has_a_bias(monkeypatch):
    logits, means = normal(4).double(), normal(4, 2, seed=1).double()

    def f(vector):
        return vector.pow(3).sum()

    found = mean_gradient(draws.reinmax_vectors, f, logits, means, 1.0, monkeypatch)
    truth = true_gradient(f, logits, means)
    assert (found - truth).norm() > 0.01 * truth.norm()


def test_reinmax_draws_codes_with_their_probabilities():
    log_p = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    torch.manual_seed(0)
    _, codes = draws.reinmax_vectors(log_p, torch.randn(3, 2), 1.0)
    for code, p in enumerate((0.7, 0.2, 0.1)):
        spread = math.sqrt(p * (1 - p) / len(log_p))
        assert abs((codes == code).double().mean().item() - p) < 5 * spread


def test_a_code_without_probability_gives_finite_gradients():
    log_p = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    vectors, _ = draws.reinmax_vectors(log_p, torch.randn(3, 2), 0.5)
    vectors.sum().backward()
    assert log_p.grad.isfinite().all()


def test_all_vectors_of_groups_can_be_had():
    """K^G vectors: each tuple of codes has one of its own, and is found again from it."""
    book = grouped(G=2)
    codes = torch.tensor(list(itertools.product(range(K), repeat=2)))
    vectors = book.lookup(codes)
    assert len(vectors.unique(dim=0)) == K**2
    assert torch.equal(nearest_codes(book.split(vectors), book.means), codes)


@pytest.mark.parametrize("code", [0, 1])
def test_for_two_codes_it_is_the_trapezoid_rule(code, monkeypatch):
    """Draw for draw: f' at the bit, times the probability of the other one."""
    a = torch.tensor([1.5, -0.3, 0.0], dtype=torch.float64, requires_grad=True)
    log_p = torch.stack([F.logsigmoid(-a), F.logsigmoid(a)], -1)
    signs = torch.tensor([[-1.0], [1.0]]).double()
    monkeypatch.setattr(draws, "categorical", lambda log_p: torch.full((3,), code))
    vectors, _ = draws.reinmax_vectors(log_p, signs, 1.0)
    (found,) = torch.autograd.grad((2 * vectors).sin().sum(), a)
    bit = 2.0 * code - 1
    wanted = 2 * math.cos(2 * bit) * torch.sigmoid(-bit * a)
    torch.testing.assert_close(found, wanted)

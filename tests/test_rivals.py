"""Rivals: estimators against enumeration, bits against torch.distributions, settings that agree."""

import itertools
import math

import pytest
import torch
from helpers import lively, note_draws, random_images
from torch.distributions import Bernoulli, Normal, kl_divergence

from rrvqlib.latents import NearestLatent
from rrvqlib.latents.binary import BinaryLatent, trapezoid_bits
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.models import build
from rrvqlib.models.code_priors import UnusedCodes
from rrvqlib.objectives import leave_one_out, training_loss, vimco
from rrvqlib.settings import ModelSettings, changed

LOGITS = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)  # of q(z), four states
VALUES = torch.tensor([-1.0, 2.0, 0.5, -3.0], dtype=torch.float64)  # log p(x, z)


def expected_gradient(surrogate, M):
    """Mean over all M-tuples of states of the surrogate's gradient, weighted by probability."""
    logits = LOGITS.clone().requires_grad_()
    tuples = torch.tensor(list(itertools.product(range(4), repeat=M))).T  # (M, 4^M)
    log_q = logits.log_softmax(0)[tuples]
    weight = log_q.sum(0).exp().detach()
    (gradient,) = torch.autograd.grad((weight * surrogate(VALUES[tuples], log_q)).sum(), logits)
    return gradient


@pytest.mark.parametrize("M", [2, 3, 5])
def test_leave_one_out_is_unbiased_for_the_mean(M):
    logits = LOGITS.clone().requires_grad_()
    (exact,) = torch.autograd.grad((logits.softmax(0) * VALUES).sum(), logits)
    torch.testing.assert_close(expected_gradient(leave_one_out, M), exact)


def test_a_baseline_that_sees_its_own_sample_is_biased():
    def wrong(f, log_q):
        return ((f - f.mean(0)) * log_q).mean(0)

    right = expected_gradient(leave_one_out, 3)
    torch.testing.assert_close(expected_gradient(wrong, 3), right * (1 - 1 / 3))


@pytest.mark.parametrize("M", [2, 3, 5])
def test_vimco_is_unbiased_for_the_importance_weighted_bound(M):
    logits = LOGITS.clone().requires_grad_()
    tuples = torch.tensor(list(itertools.product(range(4), repeat=M))).T
    log_q = logits.log_softmax(0)[tuples]
    bound = (VALUES[tuples] - log_q).exp().mean(0).log()
    (exact,) = torch.autograd.grad((log_q.sum(0).exp() * bound).sum(), logits)
    estimate = expected_gradient(lambda f, log_q: vimco(f - log_q, log_q), M)
    torch.testing.assert_close(estimate, exact)


def test_vimco_returns_the_bound_itself():
    log_weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    bound = vimco(log_weights, torch.zeros(5, 3))
    torch.testing.assert_close(bound, log_weights.exp().mean(0).log())


@pytest.mark.parametrize("estimate", [leave_one_out, vimco])
def test_one_sample_is_refused(estimate):
    with pytest.raises(ValueError, match="2 or more"):
        estimate(torch.zeros(1, 3), torch.zeros(1, 3))


ONE_CODE = changed(
    ModelSettings(),
    model="one-layer",
    image_size=2,
    pyramid=(1,),
    codebook_size=(3,),
    embedding_dim=2,
    channels=3,
    objective="leave-one-out",
    codebook_init="unit",
    num_samples=3,
)
IMAGE = torch.tensor([10, 200, 30, 90, 255, 0, 70, 12, 130, 140, 5, 66], dtype=torch.uint8)


def exact_bound(model, image, M):
    """The ELBO (M = 1) or the bound of M samples, by a sum over all codes."""
    log_q = model.latent.log_posterior(model.encoder(image / 256 - 0.5))[0, 0, 0, 0]  # (K,)
    means = model.decoder(model.latent.lookup(torch.arange(3).view(3, 1, 1, 1)))
    log_p = model.likelihood.log_prob(image.expand(3, -1, -1, -1), means) - torch.tensor(3.0).log()
    log_weights = log_p - log_q
    tuples = torch.tensor(list(itertools.product(range(3), repeat=M))).T
    bounds = log_weights[tuples].logsumexp(0) - torch.tensor(float(M)).log()
    return (log_q[tuples].sum(0).exp() * bounds).sum()


@pytest.mark.parametrize(("name", "M"), [("leave-one-out", 1), ("vimco", 3)])
def test_training_gradients_of_a_whole_model_agree_with_enumeration(name, M):
    model = lively(changed(ONE_CODE, objective=name), seed=1).train()
    image = IMAGE.view(1, 3, 2, 2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    exact = torch.autograd.grad(exact_bound(model, image, M), parameters, allow_unused=True)
    torch.manual_seed(0)
    rows = []
    for _ in range(30):
        loss = -training_loss(model(image.repeat(2000, 1, 1, 1), torch.ones(())))
        rows.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for number, truth in enumerate(exact):
        if truth is None:
            continue
        draws = torch.stack([row[number] for row in rows])
        error = (draws.mean(0) - truth).abs()
        assert (error <= 5 * draws.std(0) / 30**0.5 + 2e-4 * (1 + truth.abs())).all()


@pytest.mark.parametrize("name", ["leave-one-out", "vimco"])
def test_rivals_are_scored_as_the_relaxed_vq_vae_is(name):
    rival = lively(changed(ONE_CODE, objective=name), seed=1)
    twin = build(changed(ONE_CODE, objective="elbo"))
    twin.load_state_dict(rival.state_dict())
    image = IMAGE.view(1, 3, 2, 2)
    scores = []
    for model in (rival, twin):
        torch.manual_seed(0)
        scores.append(model(image).elbo)
    assert torch.equal(*scores)


def test_vimco_reports_its_bound_whatever_the_weight_of_the_kl():
    model = lively(changed(ONE_CODE, objective="vimco"), seed=1).train()
    terms = model(IMAGE.view(1, 3, 2, 2), torch.ones(()))
    assert not terms.kl_maps[0].requires_grad
    bound = terms.elbo.detach()
    assert bound.isfinite().all() and (bound <= 0).all()


def mean_derivative(logit, derivative):
    """Of trapezoid_bits: the mean over both bits of what a logit receives."""
    total = 0.0
    for bit in (-1.0, 1.0):
        torch.manual_seed(0)
        for _ in range(200):  # until this bit is drawn
            leaf = logit.clone().requires_grad_()
            drawn = trapezoid_bits(leaf)
            if drawn.item() == bit:
                break
        else:
            raise AssertionError("this bit is never drawn")
        drawn.backward(torch.as_tensor(derivative(bit), dtype=logit.dtype))
        total = total + torch.sigmoid(bit * logit) * leaf.grad
    return total


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.7])
def test_trapezoid_is_exact_for_quadratics_and_not_for_cubics(value):
    logit = torch.tensor(value, dtype=torch.float64)
    slope = torch.sigmoid(logit) * torch.sigmoid(-logit)
    quadratic = mean_derivative(logit, lambda z: 3.0 + 2 * 5.0 * z)  # f = 3 z + 5 z^2
    torch.testing.assert_close(quadratic, slope * 6.0)  # f(+1) - f(-1)
    cubic = mean_derivative(logit, lambda z: 3 * z**2)  # f = z^3
    torch.testing.assert_close(cubic, 3 * slope * 2.0)  # three times too much


def test_bits_are_plus_and_minus_one_and_as_frequent_as_they_should_be():
    torch.manual_seed(0)
    logits = torch.tensor([-1.0, 0.0, 2.0]).expand(40_000, 3)
    bits = trapezoid_bits(logits)
    assert set(bits.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close((bits > 0).float().mean(0), logits[0].sigmoid(), atol=0.01, rtol=0)


@pytest.mark.parametrize("learnt", [True, False])
def test_kl_and_log_ratio_of_bits(learnt):
    torch.manual_seed(0)
    latent = BinaryLatent(4, learnt_prior=learnt)
    q, p = torch.randn(1, 4, 2, 2), torch.randn(1, 4 if learnt else 0, 2, 2)
    prior = Bernoulli(logits=p if learnt else torch.zeros_like(q))
    expected = kl_divergence(Bernoulli(logits=q), prior).sum(1)
    many = latent.draw(q.expand(20_000, -1, -1, -1), p.expand(20_000, -1, -1, -1), None)
    torch.testing.assert_close(many.kl[:1], expected)
    ones = (many.vectors + 1) / 2
    log_ratio = (prior.log_prob(ones) - Bernoulli(logits=q).log_prob(ones)).flatten(1).sum(1)
    torch.testing.assert_close(many.log_ratio, log_ratio, atol=1e-4, rtol=1e-4)
    assert many.log_ratio.mean().item() == pytest.approx(-expected.sum().item(), abs=0.05)


def test_bits_from_the_prior():
    torch.manual_seed(0)
    latent = BinaryLatent(2, learnt_prior=True)
    logits = torch.tensor([-1.0, 3.0]).view(1, 2, 1, 1).expand(20_000, -1, -1, -1)
    share = (latent.sample(logits) > 0).float().mean((0, 2, 3))
    torch.testing.assert_close(share, torch.tensor([-1.0, 3.0]).sigmoid(), atol=0.015, rtol=0)
    assert latent.sample(logits[:1], 0).flatten().tolist() == [-1.0, 1.0]


def test_one_shared_variance_is_a_temperature_of_the_distances():
    torch.manual_seed(0)
    shared, each = Codebook(6, 3, "shared"), Codebook(6, 3, "isotropic")
    assert shared.raw_log_variances.shape == (1,)
    each.means.data.copy_(shared.means)
    for book in (shared, each):
        book.raw_log_variances.data.fill_(-1.3)
    features = torch.randn(50, 3)
    probabilities = log_responsibilities(features, shared)
    torch.testing.assert_close(probabilities, log_responsibilities(features, each))
    distances = torch.cdist(features, shared.means).square()
    by_hand = (-distances / (2 * torch.tensor(-1.3).exp())).log_softmax(1)
    torch.testing.assert_close(probabilities, by_hand)
    probabilities[:, 0].sum().backward()
    assert shared.raw_log_variances.grad.abs() > 0


def test_two_levels_of_nearest_codes_pay_log_k_for_every_variable():
    settings = changed(
        ModelSettings(),
        image_size=8,
        pyramid=(4, 2),
        latent="nearest",
        codebook_size=(5, 3),
        embedding_dim=2,
        channels=4,
    )
    model = lively(settings, seed=1)
    assert all(isinstance(latent, NearestLatent) for latent in model.latents)
    terms = model(random_images(2, 8))
    expected = torch.tensor([16.0, 4.0]) * torch.tensor([5.0, 3.0]).log()
    torch.testing.assert_close(terms.kl, expected.expand(2, -1))
    torch.testing.assert_close(terms.log_weight, terms.elbo)


def test_sq_vae_pays_the_kl_of_two_gaussians_and_is_scored_without_it():
    settings = changed(
        ModelSettings(),
        model="one-layer",
        image_size=4,
        pyramid=(2,),
        latent="stochastic",
        codebook_size=(5,),
        embedding_dim=3,
        channels=4,
        relaxation="soft",
    )
    model = lively(settings, seed=1).train()
    latent, images = model.latent, random_images(6, 4)
    latent.codebook.raw_log_variances.data.fill_(-0.7)
    posterior, no_prior = torch.randn(6, 3, 2, 2), torch.empty(6, 0, 2, 2)
    draw = latent.draw(posterior, no_prior, torch.tensor(0.5))
    std = torch.tensor(-0.7).exp().sqrt()
    apart = kl_divergence(Normal(posterior, std), Normal(draw.vectors, std)).flatten(1).sum(1)
    torch.testing.assert_close(draw.vq_loss, apart)
    draw.vq_loss.sum().backward()  # embeddings, codes and variance all learn from it
    assert latent.codebook.means.grad.abs().sum() > 0
    assert latent.codebook.raw_log_variances.grad < 0  # further apart than s: s should grow
    assert model(images, torch.tensor(0.5)).vq_loss is not None
    assert model(images).vq_loss is None  # the score knows nothing of it
    twin = build(changed(settings, latent="relaxed"))
    assert twin(images, torch.tensor(0.5)).vq_loss is None


def test_sq_vae_2_is_a_hierarchy_of_uniform_priors_without_networks_for_them(monkeypatch):
    settings = changed(
        ModelSettings(),
        image_size=8,
        pyramid=(4, 2),
        latent="stochastic",
        prior="uniform",
        codebook_size=(5, 3),
        embedding_dim=3,
        channels=4,
        relaxation="soft",
    )
    model = lively(settings, seed=1)
    names = [name for name, _ in model.named_parameters()]
    learnt = build(changed(settings, prior="embedding"))
    # The posteriors' straps stay: they hear of the layers above.
    assert [n for n, _ in learnt.named_parameters() if "pstrap" not in n] == names
    noted, images = note_draws(model, monkeypatch), random_images(3, 8)
    for temperature in (None, torch.tensor(0.5)):
        noted.clear()
        terms = model(images, temperature)
        for kl, (latent, posterior, prior) in zip(terms.kl_maps, noted[::-1], strict=True):
            log_q = latent.log_posterior(posterior)
            entropy = -(log_q.exp() * log_q).sum((-2, -1))
            torch.testing.assert_close(kl, math.log(latent.values) - entropy)
            assert prior.shape[1] == 0
        assert (terms.vq_loss is None) == (temperature is None)


def reset_after(counts, steps=20):
    """The codes that have moved after `steps` steps in which code k was drawn counts[k] times."""
    torch.manual_seed(0)
    unused, means = UnusedCodes(len(counts)), torch.randn(len(counts), 8)
    before = means.clone()
    codes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for part in codes.tensor_split(steps):
        unused.move(means)
        assert torch.equal(means, before)  # not before it is time
        unused.count(part)
    unused.move(means)
    return before, means, unused


def test_hqa_moves_the_least_used_code_to_the_most_used_one():
    before, means, unused = reset_after([300, 1000, 29, 31])
    assert (means != before).any(1).tolist() == [False, False, True, False]
    assert 0.001 < (means[2] - before[1]).std() < 0.03  # noise of 0.01
    assert unused.counts.sum() == 0  # the next twenty steps are counted afresh


def test_hqa_leaves_codes_that_are_used_often_enough():
    before, means, unused = reset_after([300, 1000, 31, 31])
    assert torch.equal(means, before) and unused.counts.sum() == 0
    before, means, unused = reset_after([300, 1000, 0, 31], steps=19)
    assert torch.equal(means, before) and unused.counts.sum() == 1331

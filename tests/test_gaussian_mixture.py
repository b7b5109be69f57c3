"""GM-VQ: its two variables against Monte Carlo; what its objective leaves out, by enumeration."""

import math

import pytest
import torch
from helpers import lively, normal, random_images
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

from rrvqlib.errors import UserError
from rrvqlib.latents import GaussianMixtureLatent, aggregate_kl, channels_last
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.divergences import uniform_kl
from rrvqlib.latents.gaussian_mixture import MIN_VARIANCE, squared_distances
from rrvqlib.runs.scoring import score
from rrvqlib.settings import ModelSettings, changed

K, D = 5, 3
WARM = torch.tensor(0.7)
RELAXATIONS = ["straight-through", "reinmax", "soft"]


def mixture(relaxation="straight-through", K=K, D=D):
    torch.manual_seed(0)
    return GaussianMixtureLatent(Codebook(K, D, "fixed", "unit"), relaxation)


def drawn(latent, e, temperature=None):
    return latent.draw(e, e[:, :0], temperature)


def by_hand(latent, e):
    """Embeddings (B, D, H, W) -> q(c | x) and the posterior's variances, both (B, H, W, K)."""
    apart = channels_last(e).unsqueeze(-2) - latent.codebook.means  # (B, H, W, K, D)
    squared = apart.square().sum(-1)
    return (-squared / 2).softmax(-1), (squared / (2 * D)).clamp_min(MIN_VARIANCE)


def test_the_kl_is_that_of_the_code_and_of_a_gaussian_for_every_code():
    latent, e = mixture(), normal(4, D, 2, 3)
    q, variance = by_hand(latent, e)
    codes = kl_divergence(Categorical(q), Categorical(torch.ones_like(q)))
    around = D * kl_divergence(Normal(torch.zeros(()), variance.sqrt()), Normal(0.0, 1.0))
    draw = drawn(latent, e)
    torch.testing.assert_close(draw.kl, codes + (q * around).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latent.log_posterior(e).exp(), q)
    assert draw.codes.shape == (4, 2, 3, 1) and draw.vq_loss is None


def test_a_draw_s_log_ratio_is_that_of_its_densities():
    latent, e = mixture(), normal(50, D, 2, 3)
    draw = drawn(latent, e)
    q, variance = by_hand(latent, e)
    codes, z = draw.codes, channels_last(draw.vectors)
    mean = latent.codebook.means[codes.squeeze(-1)]
    std = variance.gather(-1, codes).sqrt()
    log_q = q.log().gather(-1, codes) + Normal(mean, std).log_prob(z).sum(-1, keepdim=True)
    log_p = Normal(mean, 1.0).log_prob(z).sum(-1) - math.log(K)
    expected = (log_p - log_q.squeeze(-1)).flatten(1).sum(1)
    torch.testing.assert_close(draw.log_ratio, expected, atol=1e-3, rtol=1e-4)


def test_log_ratios_are_minus_the_kl_on_average():
    latent, e = mixture(), normal(1, D, 2, 2)
    torch.manual_seed(1)
    many = drawn(latent, e.expand(20_000, -1, -1, -1))
    error = many.log_ratio.std().item() / math.sqrt(20_000)
    assert many.log_ratio.mean().item() == pytest.approx(-many.kl[0].sum().item(), abs=4 * error)


def test_draws_have_the_posterior_s_codes_and_spread():
    latent, e = mixture(), normal(1, D, 1, 1)
    q, variance = by_hand(latent, e)
    torch.manual_seed(1)
    many = drawn(latent, e.expand(20_000, -1, -1, -1))
    codes = many.codes.flatten()
    expected = 20_000 * q.flatten().double()
    expected = expected / expected.sum() * 20_000
    counts = torch.bincount(codes, minlength=K)
    assert stats.chisquare(counts.numpy(), expected.detach().numpy()).pvalue > 1e-3
    for code in range(K):
        z = many.vectors[codes == code, :, 0, 0]
        std = variance.flatten()[code].sqrt()
        standard = ((z - latent.codebook.means[code]) / std).flatten().detach()
        assert stats.kstest(standard.numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_the_authors_objective_lies_above_the_elbo_by_the_mutual_information(relaxation):
    """I(x; c), by a sum over the images and codes of a small batch."""
    latent, e = mixture(relaxation), normal(6, D, 2, 2)
    q, _ = by_hand(latent, e)
    joint = q.flatten(0, 2) / q[..., 0].numel()  # of x, one of 24 positions, and c
    information = (joint * (joint / (joint.sum(0) * joint.sum(1, keepdim=True))).log()).sum()
    elbo, albo = drawn(latent, e).kl, drawn(latent, e, WARM).kl
    torch.testing.assert_close(elbo.mean() - albo.mean(), information)
    assert information > 0.1
    log_q = latent.log_posterior(e)
    torch.testing.assert_close(uniform_kl(log_q).mean(), information + aggregate_kl(log_q))


def test_where_every_image_is_alike_or_knows_nothing_the_two_agree():
    latent, e = mixture(), normal(1, D, 1, 1)
    alike = e.expand(4, -1, 3, 3)
    torch.testing.assert_close(drawn(latent, alike).kl, drawn(latent, alike, WARM).kl)
    with torch.no_grad():
        latent.codebook.means.copy_(latent.codebook.means[:1].expand(K, -1))
    e = normal(4, D, 2, 2)  # codes that are all one
    assert uniform_kl(latent.log_posterior(e)).abs().max() < 1e-5
    torch.testing.assert_close(drawn(latent, e).kl, drawn(latent, e, WARM).kl)


def test_sure_codes_used_equally_often_are_free_in_the_authors_objective():
    latent = mixture()
    with torch.no_grad():
        latent.codebook.means.mul_(100)
    e = latent.codebook.means.detach().view(K, D, 1, 1)
    log_q = latent.log_posterior(e)
    assert uniform_kl(log_q).flatten().tolist() == pytest.approx([math.log(K)] * K)
    assert aggregate_kl(log_q).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [None, WARM])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_on_a_code_the_variance_is_the_least_and_gradients_are_finite(relaxation, temperature):
    latent = mixture(relaxation)
    with torch.no_grad():
        latent.codebook.means.mul_(30)  # so that the code is certain
    e = latent.codebook.means[2].detach().view(1, D, 1, 1).clone().requires_grad_()
    draw = drawn(latent, e, temperature)
    assert draw.codes.item() == 2
    largest = D * (MIN_VARIANCE - 1 - math.log(MIN_VARIANCE)) / 2
    assert largest < 3 * D
    codes = math.log(K) if temperature is None else aggregate_kl(latent.log_posterior(e)).item()
    assert draw.kl.item() == pytest.approx(largest + codes, rel=1e-4)
    (draw.kl.sum() + draw.vectors.square().sum()).backward()
    assert e.grad.isfinite().all() and latent.codebook.means.grad.isfinite().all()
    apart = (draw.vectors.flatten() - latent.codebook.means[2]).abs().max()
    assert 0 < apart < 5 * MIN_VARIANCE**0.5


def test_far_from_its_code_the_posterior_is_as_wide_as_the_prior():
    latent = mixture(K=1)
    direction = torch.nn.functional.normalize(normal(D), dim=0)
    e = latent.codebook.means[0].detach() + direction * math.sqrt(2 * D)
    assert drawn(latent, e.view(1, D, 1, 1)).kl.abs().max() < 1e-5


def test_distances_by_a_product_are_distances():
    e, means = normal(40, D) + 7, normal(K, D, seed=1) + 7
    wanted = torch.cdist(e.double(), means.double()).square().float()
    torch.testing.assert_close(squared_distances(e, means), wanted, atol=1e-5, rtol=1e-5)


def test_samples_are_the_mixture_s():
    latent = mixture(K=3, D=1)
    torch.manual_seed(1)
    z = latent.sample(torch.empty(20_000, 0, 1, 1), 0.5).flatten().detach()
    means = latent.codebook.means.detach().flatten()
    prior = MixtureSameFamily(Categorical(torch.ones(3)), Normal(means, 0.5))
    cdf = lambda x: prior.cdf(torch.as_tensor(x)).numpy()  # noqa: E731
    assert stats.kstest(z.numpy(), cdf).pvalue > 1e-3
    modes = latent.sample(torch.empty(100, 0, 1, 1), 0.0).flatten()
    assert torch.isin(modes, means).all()


def test_it_is_trained_by_one_and_scored_by_the_other():
    settings = changed(
        ModelSettings(),
        model="one-layer",
        image_size=8,
        pyramid=(4,),
        latent="gaussian-mixture",
        codebook_size=4,
        embedding_dim=2,
        channels=4,
        codebook_init="unit",
    )
    model, images = lively(settings), random_images(6, 8)
    e = model.encode(images)
    log_q = model.latent.log_posterior(e)
    information = uniform_kl(log_q).mean() - aggregate_kl(log_q)
    gap = model(images).kl.mean() - model(images, WARM).kl.mean()
    torch.testing.assert_close(gap, 16 * information, atol=1e-4, rtol=1e-4)
    found = score(model, images)
    assert found["kl_bits_per_dim"][0] == pytest.approx(
        model(images).kl.mean().item() / (192 * math.log(2)), rel=1e-5
    )
    assert found["perplexity"][0] > 1 and found["prior_entropy_bits"] is None
    assert settings.rate_ceiling is None


def test_there_is_no_second_stage_for_what_codes_do_not_tell():
    with pytest.raises(UserError, match="unless the first stage has codes under uniform priors"):
        changed(
            ModelSettings(),
            model="one-layer",
            pyramid=(8,),
            latent="gaussian-mixture",
            second_stage="pixelcnn",
        )

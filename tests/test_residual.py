"""Codes that follow one another: all of them enumerated, and one stage against SQ-VAE."""

import itertools
import math

import pytest
import torch
from helpers import normal

from rrvqlib.errors import UserError
from rrvqlib.latents import ResidualLatent, StochasticLatent, channels_first, channels_last
from rrvqlib.latents.codebook import Codebook
from rrvqlib.settings import ModelSettings, changed

K, G, D = 3, 2, 2
WARM = torch.tensor(0.7)
RELAXATIONS = ["straight-through", "reinmax", "soft"]
STATES = torch.tensor(list(itertools.product(range(K), repeat=G)))  # (K^G, G)


def residual(stages=G, relaxation="straight-through"):
    torch.manual_seed(0)
    books = [Codebook(K, D, "shared", "unit") for _ in range(stages)]
    with torch.no_grad():
        for number, book in enumerate(books):
            book.raw_log_variances.fill_(0.4 - 0.6 * number)
    return ResidualLatent(books, relaxation)


def log_q_of(latent, e, codes):
    """Log q of codes (N, G) for one embedding (D,), written out: (N,)."""
    left, total = e.expand(len(codes), -1), torch.zeros(len(codes))
    for book, chosen in zip(latent.stages, codes.unbind(1), strict=True):
        squared = (left[:, None] - book.means).square().sum(-1)  # (N, K)
        table = (-squared / (2 * book.raw_log_variances.exp())).log_softmax(-1)
        total = total + table.gather(1, chosen[:, None]).squeeze(1)
        left = left - book.means[chosen]
    return total


def draws_of(latent, e, n, temperature=None):
    """n draws of one position."""
    maps = e.view(1, D, 1, 1).expand(n, -1, -1, -1)
    return latent.draw(maps, maps[:, :0], temperature)


def test_all_codes_together_have_probability_one():
    log_q = log_q_of(residual(), normal(D), STATES)
    assert log_q.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert log_q.exp().max() < 0.9


def test_log_ratios_frequencies_and_kl_are_those_of_enumeration():
    latent, e, n = residual(), normal(D), 40_000
    log_q = log_q_of(latent, e, STATES)
    torch.manual_seed(1)
    many = draws_of(latent, e, n)
    assert many.codes.shape == (n, 1, 1, G) and many.codes.dtype == torch.int64
    state = (many.codes.flatten(1) * torch.tensor([K, 1])).sum(1)
    expected = -G * math.log(K) - log_q[state]
    torch.testing.assert_close(many.log_ratio, expected, atol=1e-5, rtol=1e-5)
    counts, p = torch.bincount(state, minlength=K**G), log_q.exp().detach()
    assert ((counts - n * p).square() / (n * p)).sum() < 32  # 8 degrees of freedom: 1 in 10,000
    exact = (log_q.exp() * log_q).sum().item() + G * math.log(K)
    kl = many.kl.flatten().double()
    assert kl.std() > 0.01  # it depends on the codes drawn
    assert kl.mean().item() == pytest.approx(exact, abs=4 * kl.std().item() / n**0.5)
    ratio = many.log_ratio.double()
    assert ratio.mean().item() == pytest.approx(-exact, abs=4 * ratio.std().item() / n**0.5)
    torch.testing.assert_close(many.prior_entropy, torch.full((n, 1, 1), G * math.log(K)))


@pytest.mark.parametrize("temperature", [None, WARM])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_one_stage_is_sq_vae(relaxation, temperature):
    """Number for number, of draws with one seed, and gradient for gradient."""
    latent = residual(1, relaxation)
    twin = StochasticLatent(latent.stages[0], "uniform", relaxation)
    found = []
    for each in (latent, twin):
        e = normal(4, D, 2, 3).requires_grad_()
        torch.manual_seed(1)
        draw = each.draw(e, e[:, :0], temperature)
        loss = draw.kl.sum() + draw.vectors.square().sum()
        loss = loss if draw.vq_loss is None else loss + draw.vq_loss.sum()
        learnt = [e, latent.stages[0].means, latent.stages[0].raw_log_variances]
        found.append((draw, torch.autograd.grad(loss, learnt)))
    (one, gradients), (two, others) = found
    for name in ("vectors", "kl", "codes", "log_ratio", "vq_loss", "prior_entropy"):
        mine, theirs = getattr(one, name), getattr(two, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(gradients, others)


@pytest.mark.parametrize("relaxation", ["straight-through", "reinmax"])
def test_the_decoder_sees_the_sum_of_codes_and_training_pays_for_what_is_left(relaxation):
    latent, e = residual(3, relaxation), normal(4, D, 2, 3)
    draw = latent.draw(e, e[:, :0], WARM)
    vectors = sum(
        book.means[codes] for book, codes in zip(latent.stages, draw.codes.unbind(-1), strict=True)
    )
    torch.testing.assert_close(draw.vectors, channels_first(vectors))
    torch.testing.assert_close(latent.lookup(draw.codes), channels_first(vectors))
    variance = sum(book.raw_log_variances.exp() for book in latent.stages)
    apart = (channels_last(e) - vectors).square().flatten(1).sum(1)
    torch.testing.assert_close(draw.vq_loss, apart / (2 * variance))
    assert draw.log_ratio is None


def test_more_stages_leave_less_over_once_set_from_features():
    features, left = normal(300, D, 1, 1), []
    for stages in (1, 2, 3):
        latent = residual(stages)
        latent.start_from(features)
        with torch.no_grad():
            for book in latent.stages:
                book.raw_log_variances.fill_(-5.0)  # as good as the nearest
        left.append(
            (latent.draw(features, features[:, :0], None).vectors - features).square().mean()
        )
    assert left[0] > 1.5 * left[1] and left[1] > 1.5 * left[2]


def test_samples_are_sums_of_equally_likely_codes():
    latent = residual()
    torch.manual_seed(1)
    drawn = latent.sample(torch.empty(9000, 0, 1, 1), 0.0).flatten(1)
    every = latent.lookup(STATES.view(-1, 1, 1, G)).flatten(1)
    state = torch.cdist(drawn, every).argmin(1)
    assert torch.cdist(drawn, every).min(1).values.max() < 1e-3
    counts = torch.bincount(state, minlength=K**G) - 1000.0
    assert counts.square().sum() / 1000 < 32


def test_each_stage_has_a_variance_that_steps_keep_in_range():
    latent = residual(3)
    for parameter, book in zip(latent.raw_log_variances(), latent.stages, strict=True):
        assert parameter is book.raw_log_variances
    assert len(list(latent.fast_parameters())) == 6


@pytest.mark.parametrize("stages", [1, 2])
def test_there_is_no_second_stage_for_codes_that_follow_one_another(stages):
    with pytest.raises(
        UserError, match="one layer of latents relaxed, stochastic, nearest or scal"
    ):
        changed(
            ModelSettings(),
            model="one-layer",
            pyramid=(8,),
            latent="residual",
            stages=stages,
            second_stage="pixelcnn",
        )

"""What chapter 2 looks into a VQ-VAE with: usage, rates, one variable's posterior, drawings."""

import math

import pytest
import torch

from rrvqlib import data
from rrvqlib.models import build
from rrvqlib.settings import changed
from rrvqlib.teaching import EXAMPLES, codebooks, train

PATCHES = data.load("photos", image_size=16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(changed(EXAMPLES["VQ-VAE"], codebook_size=16))
    train(model, PATCHES.train, steps=10)
    return model


def test_perplexity_counts_codes_in_use():
    assert codebooks.perplexity(torch.arange(8).repeat(3), 8) == pytest.approx(8)
    assert codebooks.perplexity(torch.zeros(5, dtype=torch.long), 8) == pytest.approx(1)


def test_usage_is_written_down_once_a_training_step_and_codes_are_revived_in_time():
    torch.manual_seed(0)
    model = build(changed(EXAMPLES["VQ-VAE"], dead_code_threshold=0))
    curve = codebooks.watch_usage(model, revive_at=3)
    train(model, PATCHES.train, steps=2)
    model(PATCHES.valid[:4])  # no training step
    assert len(curve) == 2 and model.latent.average.dead_code_threshold == 0
    model.train()
    model(PATCHES.train[:4])
    assert len(curve) == 3 and model.latent.average.dead_code_threshold == 0.5
    assert all(1 <= value <= 64 for value in curve)


def test_rates_are_those_of_counting_by_hand(model):
    uniform, histogram, neighbours = codebooks.rates(model, PATCHES.train[:200], PATCHES.valid[:9])
    assert uniform == pytest.approx(4 * 64 / 768)
    old = model(PATCHES.train[:200]).codes[0][..., 0]
    counts = [1.0 + (old == k).sum().item() for k in range(16)]
    log_p = [math.log(count / sum(counts)) for count in counts]
    follows = [[8 * math.exp(one) for one in log_p] for _ in range(16)]
    for row in old.flatten(0, 1).tolist():
        for left, right in zip(row, row[1:], strict=False):
            follows[left][right] += 1
    alone = beside = 0.0
    for row in model(PATCHES.valid[:9]).codes[0][..., 0].flatten(0, 1).tolist():
        alone -= sum(log_p[code] for code in row)
        beside -= log_p[row[0]]
        for left, right in zip(row, row[1:], strict=False):
            beside -= math.log(follows[left][right] / sum(follows[left]))
    dims = 9 * 768 * math.log(2)
    assert histogram == pytest.approx(alone / dims, rel=1e-4)
    assert neighbours == pytest.approx(beside / dims, rel=1e-4)


def test_the_posterior_of_one_variable_starts_with_the_chosen_code(model):
    image = PATCHES.valid[0]
    posterior = codebooks.posterior_of_one(model, image, 2, 5)
    assert posterior.exp().sum().item() == pytest.approx(1, abs=1e-4)
    codes = model(image[None]).codes[0]
    scores = []
    for step in (0, 3):  # the chosen code, and the third after it
        other = codes.clone()
        other[0, 2, 5, 0] = (other[0, 2, 5, 0] + step) % 16
        parameters = model.decode([model.latent.lookup(other)])
        scores.append(model.likelihood.log_prob(image[None], parameters).item())
    assert (posterior[3] - posterior[0]).item() == pytest.approx(scores[1] - scores[0], abs=1e-2)


def test_pictures_of_codes(model):
    assert codebooks.painted(model).shape == (16, 3, 16, 16)
    figure = codebooks.draw_passage(model, PATCHES.valid[0])
    numbers = [text.get_text() for text in figure.axes[2].texts]
    assert numbers == [str(k) for k in model(PATCHES.valid[:1]).codes[0].flatten().tolist()]
    sheet = codebooks.mosaic(torch.arange(8.0).expand(2, 3, 8))
    assert sheet.shape == (5, 15) and sheet[3, 0] == 4 and sheet[2].isnan().all()
    points, start = codebooks.ring_and_hub()
    assert points.shape == (450, 2) and start.shape == (16, 2)

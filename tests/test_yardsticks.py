"""Tables and files as models of images, pictures side by side, and a model that is enumerated."""

import math

import pytest
import torch

from rrvqlib.models import build
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.teaching import (
    draw_rows,
    draw_values,
    enumerate_codes,
    exact_iw_2,
    left_differences,
    log2_histogram,
    mosaic,
    png_bits_per_dim,
)


def random_images(n, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), generator=generator).to(torch.uint8)


def test_a_histogram_has_mass_one_and_rules_out_no_value():
    table = log2_histogram(torch.tensor([3, 3, 5]))
    assert table.exp2().sum().item() == pytest.approx(1)
    assert table[3].exp2().item() == pytest.approx(3 / 259)
    assert table.isfinite().all() and table[3] > table[5] > table[0]


def test_differences_and_the_first_column_give_the_image_back():
    images = random_images(4)
    walked = torch.cat([images[..., :1].int(), left_differences(images)], -1).cumsum(-1) % 256
    assert torch.equal(walked.to(torch.uint8), images)


def test_drawn_rows_walk_by_the_steps_of_the_table():
    table = torch.full((256,), -math.inf)
    table[1] = table[255] = -1.0  # one up or one down
    torch.manual_seed(0)
    steps = left_differences(draw_rows(table, (50, 3, 8, 8)))
    assert set(steps.unique().tolist()) == {1, 255}
    assert (steps == 1).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_drawn_values_are_as_frequent_as_the_table_says():
    table = log2_histogram(torch.arange(256).clamp(max=9))
    torch.manual_seed(0)
    drawn = draw_values(table, (20, 3, 30, 30))
    assert (drawn == 9).double().mean().item() == pytest.approx(table[9].exp2().item(), abs=0.01)


def test_png_needs_8_bits_for_noise_and_next_to_nothing_for_grey():
    assert png_bits_per_dim(random_images(64, 16)) == pytest.approx(8, abs=0.1)
    assert png_bits_per_dim(torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)) < 0.1


def test_a_mosaic_shows_every_image_in_its_place():
    images = random_images(5)
    sheet = mosaic(images, 3)
    assert sheet.shape == (17, 26, 3)
    assert torch.equal(sheet[9:, 9:17], images[4].permute(1, 2, 0))
    assert (sheet[8] == 255).all() and (sheet[9:, 18:] == 255).all()


def test_an_enumeration_holds_what_the_model_says_of_the_codes_that_it_draws():
    torch.manual_seed(0)
    model = build(
        changed(
            ModelSettings(),
            model="one-layer",
            image_size=8,
            pyramid=(2,),
            codebook_size=(3,),
            embedding_dim=2,
            channels=8,
            covariance="fixed",
        )
    ).eval()
    images = random_images(6)
    log_likelihood, log_q = enumerate_codes(model, images)
    assert log_likelihood.shape == log_q.shape == (6, 81)
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(6).double())
    with torch.no_grad():
        terms = model(images)
    (codes,) = terms.codes
    number = (codes.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1, keepdim=True)
    torch.testing.assert_close(
        log_likelihood.gather(1, number).squeeze(1),
        terms.log_likelihood.double(),
        rtol=1e-5,
        atol=0,
    )
    ratio = -4 * math.log(3) - log_q.gather(1, number).squeeze(1)
    torch.testing.assert_close(ratio, terms.log_ratio.double(), rtol=1e-4, atol=1e-4)


def test_the_bound_of_two_samples_is_a_sum_over_pairs():
    generator = torch.Generator().manual_seed(0)
    log_w, log_q = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    log_q = log_q.log_softmax(1)
    expected = [
        sum(
            (q[i] + q[j]).exp() * ((w[i].exp() + w[j].exp()) / 2).log()
            for i in range(5)
            for j in range(5)
        )
        for w, q in zip(log_w, log_q, strict=True)
    ]
    torch.testing.assert_close(exact_iw_2(log_w, log_q), torch.stack(expected))

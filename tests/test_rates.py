"""The two halves of a score, and what draws and measures them."""

import pytest
import torch
from matplotlib import pyplot as plt

from rrvqlib import data
from rrvqlib.models import build
from rrvqlib.runs.scoring import score
from rrvqlib.settings import changed
from rrvqlib.teaching import EXAMPLES, rates

PATCHES = data.load("photos", image_size=16)
FEW = PATCHES.valid[:8]


def small(name="relaxed VQ", **changes):
    torch.manual_seed(0)
    model = build(changed(EXAMPLES[name], channels=8, **changes))
    model.initialise(PATCHES.train[:8])
    return model


def test_the_halves_add_up_to_the_score():
    model = small()
    assert sum(rates.rate_and_reconstruction(model, FEW)) == pytest.approx(
        score(model, FEW)["bits_per_dim"]
    )


def test_the_prices_of_an_image_add_up_to_its_rate():
    model = small().eval()
    rate, _ = rates.rate_and_reconstruction(model, FEW)
    prices = rates.price_map(model, FEW)
    assert prices.shape == (8, 8, 8)
    assert prices.sum((1, 2)).mean().item() / 768 == pytest.approx(rate, rel=1e-4)
    torch.testing.assert_close(rates.price_map(small("VQ-VAE"), FEW), torch.full((8, 8, 8), 6.0))


def test_only_training_sees_the_discount():
    model, temperature = small(), torch.tensor(1.0)
    whole = model(FEW, temperature).kl
    before = score(model, FEW)
    rates.discount_kl(model, 0.25)
    torch.testing.assert_close(model(FEW, temperature).kl, 0.25 * whole)
    assert score(model, FEW) == before


def test_soft_samples_flatter_and_straight_through_samples_do_not():
    for relaxation, flattered in (("soft", True), ("straight-through", False)):
        model = small(relaxation=relaxation)
        steps, training, true = rates.train_watched(model, PATCHES.train, 1.0, 20, FEW)
        assert steps.tolist() == [0, 20]
        assert ((true - training).abs().max() > 0.1) == flattered


def test_a_plane_names_its_models_and_joins_equal_scores(tmp_path):
    figure, axis = plt.subplots()
    rates.plane(axis, {"one": [(0.5, 5.6), (0.5, 5.5)], "other": [(0.1, 6.1)]})
    figure.savefig(tmp_path / "plane.png")
    words = [text.get_text() for text in axis.texts]
    assert {"one", "other", "6.0", "6.2"} <= set(words)
    (square, numbers) = plt.subplots(1, 2)[1]
    rates.draw_image(square, FEW[0], "an image")
    rates.draw_prices(numbers, torch.full((2, 2), 6.0), "prices", 6)
    assert [text.get_text() for text in numbers.texts] == ["6"] * 4
    plt.close("all")

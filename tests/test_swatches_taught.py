"""Chapter 6's helpers: footprints, the nine colours, stored sheets, the record."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rrvqlib import data
from rrvqlib.models import build
from rrvqlib.runs.pictures import grid, write_png
from rrvqlib.teaching import swatches, within_image_share

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"


def adding(weights):
    """A model whose decoder adds what its latents paint: weights (side, side, H, W)."""
    side = weights.size(0)

    def decode(vectors):  # (B, 3, side, side) -> (B, 3, H, W)
        return torch.einsum("bcyx,yxhw->bchw", vectors[0], weights)

    return SimpleNamespace(
        settings=SimpleNamespace(pyramid=(side,)),
        prior=lambda batch: torch.empty(batch, 0, side, side),
        latent=SimpleNamespace(sample=lambda prior: 0.01 * torch.randn(len(prior), 3, side, side)),
        likelihood=SimpleNamespace(mean=lambda parameters: parameters),
        decode=decode,
    )


def test_blocks_have_a_footprint_of_one_over_their_number():
    weights = torch.eye(16).view(4, 4, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.manual_seed(0)
    assert swatches.footprint(adding(weights)) == pytest.approx(1 / 16)


def test_a_latent_that_shifts_all_pixels_alike_has_footprint_1():
    torch.manual_seed(0)
    assert swatches.footprint(adding(torch.ones(2, 2, 8, 8))) == pytest.approx(1)


def test_where_contributions_add_the_share_is_1_minus_the_footprint():
    torch.manual_seed(0)
    model = adding(torch.rand(3, 3, 8, 8) ** 3)
    images = model.decode([model.latent.sample(model.prior(20_000))])
    share = within_image_share(images)
    assert 0.2 < share < 0.8
    assert share == pytest.approx(1 - swatches.footprint(model, draws=2000), abs=0.01)


@pytest.mark.parametrize("network", swatches.NETWORKS)
@pytest.mark.parametrize("latents", swatches.LATENTS)
def test_every_model_of_the_chapter_trains_and_changes_pictures(latents, network):
    torch.manual_seed(0)
    model = build(swatches.settings(latents, network, 16))
    assert model.settings.positions == 16
    swatches.train(model, data.load("swatches").train, steps=2)
    rebuilt, right = swatches.reconstruct_nine(model)
    assert rebuilt.shape == (9, 3, 32, 32) and 0 <= right <= 9
    assert swatches.changes(model, 1, 2, draws=3).shape == (3, 3, 32, 32)
    assert 0 < swatches.footprint(model, draws=1) <= 1


def test_the_nine_are_nearest_to_themselves_and_are_the_data():
    nine = swatches.all_nine()
    assert torch.equal(swatches.nearest_colour(nine), torch.arange(9))
    assert torch.equal(data.load("swatches").train[:9], nine)


def test_a_uniform_picture_of_the_wrong_colour_is_not_right():
    order = [0, 1, 2, 3, 4, 8, 6, 7, 8]  # orange in place of yellow
    model = SimpleNamespace(reconstruct=lambda images: images[order] / 255 - 0.5)
    assert swatches.reconstruct_nine(model)[1] == 8


def test_tiles_are_what_was_put_on_the_sheet(tmp_path):
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    write_png(tmp_path / "sheet.png", grid(images, columns=8))
    assert torch.equal(swatches.tiles(tmp_path / "sheet.png"), images)


def test_the_record_has_what_the_chapter_says():
    record = json.loads((RESULTS / "swatch-layouts.json").read_text())
    assert len(record["models"]) == 8
    for count in (256, 16):
        for latents in swatches.LATENTS:
            spatial = [s["share"] for s in record["models"][f"{latents}, spatial, {count}"]]
            mlp = [s["share"] for s in record["models"][f"{latents}, MLP, {count}"]]
            assert len(spatial) == len(mlp) == record["seeds"] == 3
            assert min(spatial) > max(mlp)
